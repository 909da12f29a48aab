"""L5 · Rows are longer than the model's rotary positions reach, or a stretch of them is not what will be saved.

Symptom: loss and answers are fine for short rows and break down behind a certain length; or a model that was trained
on long rows fails on them once it is loaded again.
Root cause: a rotary embedding gives every position an angle, so nothing raises behind the trained context; the angles
are only new to the model. Or positions are cut off at the last row of a table, which is then that of all later tokens.
A stretch (`rope_scaling`) that is written into the config after the model was built does not run, and one that is
patched into the model is not saved; weights alone say nothing of it. Linear interpolation by more than 4 blurs.
Fix: stretch positions before the model is built, in training and inference alike: `rope_type="yarn"` with the factor
longest row / trained context (up to 32), or linear up to 4; else cut or split rows at `max_position_embeddings`.
Stays silent when: rows are within the trained context, or within what the running frequencies stretch it to; the
stretch grows with the row (dynamic NTK); documents are packed, each within the context; the model has no rotary
embedding, or was trained with its stretch (rows within `max_position_embeddings`); what was given its weights is
trained itself, or stretched further.
Sources:
- https://github.com/pytorch/torchtitan/pull/3395 (2026-05-19): rows beyond the reach of RoPE became an error
- https://github.com/axolotl-ai-cloud/axolotl/pull/343 (2023-08-05): the factor is set, not max_position_embeddings
- https://github.com/modelscope/ms-swift/issues/1591 (2024-08-03): a stretch in training that inference does not know
- https://arxiv.org/abs/2306.15595 (2023-06-27): linear interpolation, and what it costs
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import BatchSeen, ContextSeen, History, Setup
from sightline.guard.evidence.origin import trained_language
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
LINEAR, YARN = 4.0, 32.0  # the largest stretches that are known to work, of each kind
SAME = 0.02  # relative: frequencies that were cast to bf16 and back are off by up to 0.4 %
GROWS = ("dynamic", "longrope")  # these stretch as far as a row needs, or choose by its length


def find(batch: BatchSeen, context: ContextSeen, history: History | None = None, setup: Setup | None = None) -> Verdict:
    """The longest row against the reach of the running frequencies, and these against what the config would give."""
    if finding := _not_what_is_saved(context):
        return finding
    longest = max(_longest(batch) or 0, context.longest or 0)
    if not longest:
        return CannotTell("token ids or positions")
    if longest <= (context.source or context.trained) or context.kind in GROWS:
        return None
    least, most = context.running or (1.0, context.factor or 1.0)
    reach = round((context.original or context.trained) * most)
    if longest > max(reach, context.trained):
        learnt = history is not None and setup is not None and trained_language(history, setup) is not None
        return _finding(
            f"a row has {longest} tokens; the model's positions reach {max(reach, context.trained)}",
            f"cut rows at {context.trained} tokens, or build the model with rope_type='yarn' and"
            f" factor={longest / (context.original or context.trained):.3g} (its stretch is {most:.3g})",
            longest,
            context,
            "error" if learnt else "warning",
        )
    if abs(least - most) <= SAME * most and most > LINEAR * (1 + SAME):
        return _finding(
            f"positions are interpolated linearly by {most:.3g} for rows of {longest} tokens",
            f"use rope_type='yarn' with factor {most:.3g} (linear works up to {LINEAR:g})",
            longest,
            context,
            "warning",
        )
    return None


def _longest(batch: BatchSeen) -> int | None:
    """Positions that the longest row (or packed document) takes, without its padding."""
    ids, positions, mask = batch.input_ids, batch.position_ids, batch.attention_mask
    if positions is not None and positions.numel():
        return int(positions.max()) + 1
    if ids is None or batch.group_ids is not None:  # documents, whose positions were not shown
        return None
    return int(mask.sum(dim=1).max()) if mask is not None and mask.shape == ids.shape else ids.shape[1]


def _not_what_is_saved(context: ContextSeen) -> Finding | None:
    """Of a model that was read back from the weights alone, or will be from what is saved."""
    now, later = context.running, context.copied or context.reloaded
    if now is None or later is None or abs(now[1] - later[1]) <= SAME * max(now[1], later[1]):
        return None
    who = "one that was given its weights runs with" if context.copied else "its config says"
    return Finding(
        severity="warning",
        message=f"the model runs with positions stretched by {now[1]:.3g}, and {who} {later[1]:.3g}: once saved and"
        " loaded it is another model",
        fix=f"set rope_parameters (kind {context.kind}, factor {context.factor}) in the config the model is built from",
        seen={"stretch that runs": now[1], "stretch once loaded": later[1]},
    )


def _finding(message: str, fix: str, longest: int, context: ContextSeen, severity: object) -> Finding:
    return Finding(
        severity="error" if severity == "error" else "warning",
        message=message,
        fix=fix,
        seen={"longest row": longest, "max_position_embeddings": context.trained, "stretch": context.running},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A model with rotary frequencies and a config, and rows of one length."""
    from types import SimpleNamespace

    import torch
    from torch import nn

    class Rotary(nn.Module):
        def __init__(self, config: object) -> None:
            super().__init__()
            self.config = config
            self.register_buffer("inv_freq", 10000.0 ** -(torch.arange(4) / 4))

    class Model(nn.Sequential):
        config = SimpleNamespace(model_type="tiny", max_position_embeddings=8, rope_parameters={"rope_theta": 10000.0})

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self[1](self[0](ids))

    model = Model(nn.Embedding(9, 8), nn.Linear(8, 9), Rotary(Model.config))
    ids = torch.randint(0, 9, (2, 12 if faulty else 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
