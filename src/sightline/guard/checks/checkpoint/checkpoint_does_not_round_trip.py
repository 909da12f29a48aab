"""K1 · A checkpoint read back is not the model that was saved.

Symptom: a reloaded model scores worse than it did in training, by a little (rounded weights, stale batch statistics)
or at chance (half of it is freshly initialised, with only a warning in the log); the loss jumps at a resume.
Root cause: only parameters were saved, without batch norm's running statistics; names carry a wrapper's prefix
(`module.` of data parallelism, `_orig_mod.` of torch.compile), or another name of the part, and are skipped with
`strict=False`, or by loading "what matches"; a tensor was left out as "tied" that is not; the file was written before
the last step, or in a coarser dtype; the best state was kept in memory without a copy (`v.detach().cpu()` is none of
what is on the CPU), or the model itself (`best = model`), and went on training; statistics are no buffers; no file has
what learns beside an adapter; or the model was rebuilt with other settings (heads, activation, pooling: no config).
Fix: save `model.state_dict()` of the unwrapped model, in the dtype it trains in, or a `copy.deepcopy` of it; load with
`strict=True`; drop a tied name only where both really share memory.
Stays silent when: every value comes back, whatever the file's dtype; one of two names of shared memory was dropped;
the file holds all that learns and leaves frozen weights to their own source (an adapter's checkpoint); what it leaves
out is trained anew or comes from elsewhere; a script saves only whole modules, or other names or dtypes, or shards.
Sources:
- https://github.com/NVIDIA-NeMo/Automodel/pull/2511 (2026-06-10): an output head dropped as tied that was not
- https://github.com/huggingface/transformers/issues/27293 (2023-11-05): tensors removed as shared that are not (so does
  Transformers-29903 of the TrainCheck paper)
- https://github.com/torch/nn/issues/1165 (2017-03-08): running statistics lost when only parameters are saved
- https://github.com/FareedKhan-dev/train-llm-from-scratch/issues/36 (2026-07-18): prefixes, then 163 missing weights
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import RoundTripSeen
from sightline.guard.evidence.answers import prefix_between
from sightline.guard.specimen import Run

DOMAINS = ("any",)
STATISTICS, SHOWN = ("running_mean", "running_var"), 5  # torch's buffers that training moves; names in a finding


def find(checkpoint: RoundTripSeen) -> Verdict:
    """Names first, for what is absent cannot be compared; then values and, where they differ, dtypes."""
    if checkpoint.kept:
        return _by_reference(checkpoint)
    if out := checkpoint.outside:
        what = f"{len(out)} tensors (plain attributes, persistent=False) are in no state and never come back: {out[0]}"
        fix = "call register_buffer(name, tensor) for them: such buffers are saved, loaded and moved with the model"
        return Finding("error", what, fix, {"of": out, "they change an answer by": checkpoint.gap})
    if other := checkpoint.settings:
        what = f"it was read back into a model that is made otherwise ({len(other)} settings of layers): {other[0]}"
        return Finding("error", what, "save what the model was built with, and build from that", {"of": other[:SHOWN]})
    if not checkpoint.compared:
        return _prefixed(checkpoint) or CannotTell("names of the model in the checkpoint (give load=... to read it)")
    return _lost(checkpoint) or _changed(checkpoint) or (_left_over(checkpoint) if checkpoint.unexpected else None)


def _by_reference(checkpoint: RoundTripSeen) -> Finding:
    since, how = checkpoint.since, "loaded" if checkpoint.loaded or checkpoint.since is None else "saved"
    late = "it was kept, and nothing comes back" if since is None else f"step {since}, when it was kept: that is lost"
    what = f"'{checkpoint.alias}'" if checkpoint.alias else f"the state that is {how}"
    what += f" is the model's own memory: {checkpoint.kept} of its tensors were written to since "
    fix = "keep a copy: copy.deepcopy(model.state_dict()), or v.detach().cpu().clone() of each value, or a file"
    return Finding("error", what + late, fix, {"of": checkpoint.compared, "file": checkpoint.path})


def _prefixed(checkpoint: RoundTripSeen) -> Finding | None:
    """Every name is there behind the same prefix; or without it, where the script loads it so."""
    if (prefix := prefix_between(checkpoint.missing, checkpoint.unexpected)) is None and checkpoint.loaded:
        return _renamed(checkpoint)
    if prefix is None or not (prefix.longer or checkpoint.loaded):
        return None
    message = f"every name in the checkpoint begins with '{prefix.text}': the model's own names are absent"
    fix = "save the state_dict of the module inside the wrapper (model.module, model._orig_mod)"
    if checkpoint.loaded:
        whose = "of the state that was loaded" if prefix.longer else "that the model takes"
        message = f"every name {whose} begins with '{prefix.text}', and no other does: nothing was loaded"
        fix = "load the state itself (checkpoint['model']), without a prefix, into the module that was saved"
    own = next(n for n in checkpoint.missing if prefix.other(n) in checkpoint.unexpected)
    return Finding("error", message, fix, {"saved": prefix.other(own), "model": own})


def _renamed(checkpoint: RoundTripSeen) -> Finding:
    saved, own = checkpoint.unexpected[0], checkpoint.missing[0]
    message = f"not one of the {len(checkpoint.unexpected)} names that were loaded is known to the model, e.g. {saved}"
    fix = f"load them under the model's own names (it has {own}), with strict=True: strict=False drops them in silence"
    return Finding("error", f"{message}: nothing was loaded", fix, {"saved": saved, "model": own})


def _lost(checkpoint: RoundTripSeen) -> Finding | None:
    """What learns and was not saved; where nothing frozen was left out, buffers too."""
    rest = [name for name in checkpoint.missing if name not in checkpoint.frozen]
    statistics = [name for name in rest if name.rpartition(".")[2] in STATISTICS]
    if not rest:
        return None
    only = ": batch norm will judge by its initial statistics" if len(statistics) == len(rest) else ""
    where = "read back with the rest" if checkpoint.loaded else "in the checkpoint"
    message = f"{len(rest)} tensors of the model are not {where}, e.g. {rest[0]}{only}"
    fix = "save model.state_dict(), which holds parameters and buffers, and load it with strict=True; where a library"
    fix += " saves an adapter alone, tell it what else learns (PEFT: modules_to_save, or a task_type)"
    return Finding("error", message, fix, {"missing": rest[:SHOWN], "of": len(rest) + checkpoint.compared})


def _changed(checkpoint: RoundTripSeen) -> Finding | None:
    if not checkpoint.changed:
        return None
    worst = max(checkpoint.changed, key=lambda name: checkpoint.changed[name])
    rounded = checkpoint.changed.keys() <= checkpoint.dtypes.keys()
    live, saved = checkpoint.dtypes.get(worst, ("", ""))
    fix = f"save in {live}; round only a copy that is exported" if rounded else "save this model, after its last step"
    how = f": saved as {saved}, while the model holds {live}" if rounded else f", most of all {worst}"
    message = f"{len(checkpoint.changed)} of {checkpoint.compared} tensors come back changed{how}"
    seen = {"tensor": worst, "largest difference": checkpoint.changed[worst]}
    return Finding("warning" if rounded else "error", message, fix, seen)


def _left_over(checkpoint: RoundTripSeen) -> Finding:
    message = f"the checkpoint holds {len(checkpoint.unexpected)} tensors that the model does not know"
    fix = "save the model that is trained, under its own names: a strict load refuses this file"
    return Finding("warning", message, fix, {"unexpected": checkpoint.unexpected[:SHOWN]})


def specimen(run: Run, *, faulty: bool) -> None:
    """A model with batch norm, of which only the parameters are saved."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = run.attach(model, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    state = dict(model.named_parameters()) if faulty else model.state_dict()
    torch.save({name: tensor.detach() for name, tensor in state.items()}, run.folder / "model.pt")
    guard.checkpoint(run.folder / "model.pt")
