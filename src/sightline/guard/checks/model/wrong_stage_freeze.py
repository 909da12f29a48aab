"""X1 · A tower learns that should be frozen in this stage, or one that should learn does not.

Symptom: the language model forgets while the projector was to learn; or a tower's weights never change; or a "frozen"
tower differs from its source after training, and gives other features in training than in evaluation.
Root cause: `requires_grad` is set on a module, which heeds no such attribute, by a name that no parameter has, or
before a later call undoes it (LoRA wraps each module whose name matches, frozen or not: vision towers have the names of
language models); a tower that is trained runs under `torch.no_grad()`, or its output is unused; freezing leaves dropout
and batch norm alive, or `train()` wakes them, or alone would freeze; a constructor ends with `self.apply(init)`.
Fix: set `requires_grad` per tower after the last wrapping, before the optimizer is made; name LoRA's `target_modules`
by tower (or `exclude_modules`); call `tower.eval()` on frozen towers after every `model.train()`; remove `no_grad`
from the forward pass of a tower that learns; call `model.train()` before the first step.
Stays silent when: what requires gradients is what the plan says (without one, only LoRA is asked about, in a vision
tower that was frozen before or by names that fill the language tower's modules alone, and a connector, frozen as it was
made while the language tower learns); a frozen tower in train mode holds nothing that the mode changes; a tower without
gradients was shown no image in that step; `train()` would leave the model as it is; what is frozen and has an attribute
`requires_grad = True` learnt before, is under PEFT, or its class has such a flag; a third of what was loaded is there.
Sources:
- https://github.com/haotian-liu/LLaVA/issues/1647 (2024-08-06): LoRA in a vision tower that should be frozen
- https://github.com/huggingface/peft/issues/2250 (2024-12-03): LoRA goes by names and does not ask what is frozen
- https://github.com/TinyLLaVA/TinyLLaVA_Factory/issues/17 (2024-03-07): no_grad on a vision tower that is to be tuned
- https://github.com/pytorch/pytorch/issues/86590 (2022-10-10): batch norm statistics move in a frozen network
- https://github.com/open-mmlab/mmsegmentation/issues/2447 (2022-12-30): only `train()` freezes (MMPretrain-702)
- https://github.com/pgniewko/gt-pyg/issues/112 (2026-09-05): eval mode of a frozen part undone by model.train()
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Severity, Verdict
from sightline.guard.evidence import BatchSeen, History, OwnModeSeen, Setup, TowerSetup
from sightline.guard.evidence.attributes import by_attribute
from sightline.guard.evidence.leaked import leaked
from sightline.guard.evidence.untaught import untaught
from sightline.guard.specimen import Run

DOMAINS = ("vision", "vlm")
FIXED = 0.05  # share of a tower that may be fixed under the plan "all": position tables are below 1 % of a ViT
STEPS = 3  # measured steps without a gradient: a gate that starts at zero opens after the first
CUT = "it runs under no_grad or is detached", "remove no_grad and detach around '{}', or set its requires_grad to False"
UNUSED = "its output has a graph, but is unused, or detached behind it", "use what '{}' makes, and detach nothing of it"
TRAIN = "call model.train() before the first step: it was not called"
LOOKING = {"vision": "connector", "connector": "language"}  # tower -> the one that passes gradients on to it


def find(
    setup: Setup, history: History | None = None, batch: BatchSeen | None = None, own: OwnModeSeen | None = None
) -> Verdict:
    """Plan against requires_grad; then, once steps were taken, modes and gradients."""
    towers = setup.towers.values()
    if mere := by_attribute(setup):
        return Finding("error", mere.what, mere.remedy, mere.seen)
    if off := next(filter(None, map(_off_plan, towers)), None):
        return off
    if one := leaked(setup) or untaught(setup):
        return Finding("warning", one.what, one.remedy, one.seen)
    if history is None:
        return CannotTell("optimizer step")
    for tower in towers:
        if finding := _alive(tower) or _cut_off(tower, history, batch):
            return finding
    if own is not None:
        return _never_called(own) if own.freezes else None
    known = any(tower.planned for tower in towers) or {"vision", "language"} <= set(setup.towers)
    return None if known else CannotTell("towers of a vision-language model")


def _off_plan(tower: TowerSetup) -> Finding | None:
    trainable, total = tower.trainable, tower.parameters
    if tower.planned == "none" and trainable:
        what, fix = f"learns {trainable:,} of {total:,} parameters", f"{tower.name}.requires_grad_(False)"
        if tower.adapters == trainable:
            what, fix = "holds LoRA adapters that learn", "name LoRA's target_modules by tower"
        return _finding(f"tower '{tower.name}' {what}, though it is planned to be frozen", fix, tower)
    wake = f"set requires_grad to True in '{tower.name}' before the optimizer is made"
    if tower.planned == "part" and not trainable:
        return _finding(f"tower '{tower.name}' is frozen, though a part of it is planned to learn", wake, tower)
    if tower.planned == "all" and trainable < (1 - FIXED) * total:
        rest = f"{total - trainable:,} of {total:,} parameters of tower '{tower.name}'"
        return _finding(f"{rest} are frozen, though all of it is planned to learn", wake, tower)
    return None


def _alive(tower: TowerSetup) -> Finding | None:
    what, lively = ("the body of tower", tower.drifting) if tower.trainable else ("tower", tower.lively)
    message = f"{what} '{tower.name}' is frozen, but in train mode, which changes {len(lively)} of its modules"
    fix = f"call {tower.name}.eval(){' on its body' if tower.trainable else ''} after every model.train()"
    return _finding(message, fix, tower, "warning") if lively else None


def _cut_off(tower: TowerSetup, history: History, batch: BatchSeen | None) -> Finding | None:
    """Optimized, images were shown in this very step, gradients came to the tower behind it, and none ever to it."""
    measured, learns = history.measured, tower.optimized and tower.trainable
    if tower.name not in LOOKING or not learns or len(measured) < STEPS or history.step != measured[-1].step:
        return None
    if batch is None or batch.phase != "train" or batch.step + 1 != history.step or not batch.shown_to(tower.name):
        return None
    if not measured[-1].grad_norm(LOOKING[tower.name]) or any(s.grad_norm(tower.name) is not None for s in measured):
        return None
    why, fix = UNUSED if tower.name == "connector" and batch.image_graph else CUT
    message = f"tower '{tower.name}' is trainable, but no gradient reaches it: {why}"
    return _finding(message, fix.format(tower.name), tower, "error" if tower.planned else "warning")


def _never_called(own: OwnModeSeen) -> Finding:
    message = f"{len(own.freezes)} parameters learn that {own.kind}.train() would freeze, e.g. {own.freezes[0]}"
    return Finding("warning", message, TRAIN, {"would freeze": own.freezes[:5], "would set to eval": own.quiets[:5]})


def _finding(message: str, fix: str, tower: TowerSetup, severity: Severity = "error") -> Finding:
    seen: dict[str, object] = {"trainable": tower.trainable, "parameters": tower.parameters, "planned": tower.planned}
    return Finding(severity, message, fix, seen if tower.trainable else {**seen, "alive": tower.lively[:5]})


def specimen(run: Run, *, faulty: bool) -> None:
    """A stage that trains the connector; the fault is a language model that was not frozen."""
    import torch
    from torch import nn

    vision, connector, language = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8), nn.Linear(8, 5)
    model = nn.ModuleDict({"vision": vision, "connector": connector, "language": language})
    model.forward = lambda x: language(connector(vision(x).flatten(2).mean(dim=2)))
    vision.requires_grad_(False)
    if not faulty:
        language.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    run.attach(model, optimizer, towers={name: [name] for name in model}, plan={"connector": "all"})
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 3, 8, 8)).square().mean().backward()
        optimizer.step()
