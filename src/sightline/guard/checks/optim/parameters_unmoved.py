"""T1 · Parameters that should learn do not move, or frozen ones do.

Symptom: the loss is flat, or falls less than it should; the saved weights of a tower equal those it started from. The
reverse: a tower that was frozen differs from its source after training.
Root cause: `optimizer.step()` is missing, of one of two optimizers, too, or from some step on it writes to nothing (a
recorded or compiled one is replayed with what was there once); gradients are cleared between backward pass and step;
the optimizer holds other tensors than the model does (made before a layer was replaced, resized, wrapped or unfrozen),
or not all (left out, in a plain list or tensor, or one half is in both of two optimizers); the rate is zero; the loss,
or a part, is detached; new layers or rows are frozen with the rest; a frozen one kept its gradient; an average is lost.
Fix: make the optimizer after the model is final, from its parameters with requires_grad; call `optimizer.step()` once
per accumulated batch, and `zero_grad()` after it; set the group's `lr` above 0; set gradients to None when freezing.
Stays silent when: each tower with a gradient moves in some measured step; the rate is 0 only while it warms up; the
tower's rounding loses updates (P4); a frozen part was trained before, or may be random on purpose (it reads raw inputs,
is a target, is read by a new part); a body in front of what learns is left out, or a part that was trained before; of
an idle optimizer, no gradients are cleared, or another holds all, or the run is short; a plain tensor is tended to.
Sources:
- https://github.com/pytorch/pytorch/issues/14467 (2018-11-28): an optimizer that trains a discarded model in silence
- https://github.com/pytorch/pytorch/issues/115607 (2023-12-12): a compiled step that updates nothing (PyTorch-115607 of
  the TrainCheck paper; so is Forum-84911, where all but the batch norms was frozen)
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import CutOffSeen, FreshFrozenSeen, HeadSeen, HiddenSeen, History, Progress, Setup
from sightline.guard.evidence import ParameterSeen as Seen
from sightline.guard.evidence.learning import StillSeen
from sightline.guard.evidence.movement import cleared, opposed, stopped, ungraded
from sightline.guard.evidence.replaced import ReplacedSeen
from sightline.guard.evidence.strays import ADD, LATE, graded_anew, stray
from sightline.guard.specimen import Run

DOMAINS = ("any",)
STEPS = 3  # measured steps before judging: a warm-up from 0 leaves the first one without an update
BACKWARDS = 256  # backward passes without a step: more than any accumulation in use
ENDED = 8  # backward passes of a run that is over: one that ended sooner may not have come to its first step
NEVER = "call optimizer.step() after the backward pass"
BETWEEN = "call zero_grad() after step(), or before backward(): there is no gradient left when the optimizer steps"
FROZEN = "set requires_grad to True again on its parameters before each of its turns"
REPLAYED = "let each step act on its own gradients: record or compile it anew when what it updates changes"
STALE = "make the optimizer from the parameters that the model has now"
WHOLE = "call backward() on the loss as computed: no .item(), detach(), .data, no_grad or new tensor on its way"
LOW = ("float16", "bfloat16")  # an update may round to nothing here, which is P4's business


def find(
    progress: Progress | None = None,
    history: History | None = None,
    setup: Setup | None = None,
    head: HeadSeen | None = None,
    still: StillSeen | None = None,
    cut: CutOffSeen | None = None,
    hidden: HiddenSeen | None = None,
    fresh: FreshFrozenSeen | None = None,
    replaced: ReplacedSeen | None = None,
) -> Verdict:
    """Were steps taken, do they go on, and did each tower that learns move, and only those?"""
    if progress and not progress.steps and progress.backwards >= (ENDED if progress.closed else BACKWARDS):
        message = f"{progress.backwards} backward passes and not one optimizer step on the model's parameters"
        return Finding("error", message, _remedy(setup, NEVER), {"backward passes": progress.backwards})
    if still is not None and stopped(still):
        return _stopped(still)
    measured = history.measured if history else ()
    if len(measured) < STEPS:
        return CannotTell(f"{STEPS} measured optimizer steps")
    towers = {tower: [p for step in measured for p in step.tower(tower)] for tower in measured[-1].towers}
    if found := next((f for t, seen in towers.items() if (f := _unmoved(t, seen, setup))), None):
        return found
    if cleared(measured):
        message = "every gradient was 0 in all measured steps, though the loss pulls at the outputs"
        return Finding("error", message, opposed(measured) + BETWEEN, {"measured steps": len(measured)})
    if ungraded(measured):
        message = f"in {measured[-1].step} steps no parameter ever had a gradient: the loss does not hang on the model"
        return Finding("error", message, WHOLE, {"measured steps": len(measured)})
    one = stray(measured, setup, head, hidden, cut, fresh, replaced, progress)
    return Finding("error" if one.sure else "warning", one.what, one.remedy, one.seen) if one else None


def _stopped(still: StillSeen) -> Finding:
    fix = FROZEN if still.frozen else (REPLAYED if still.held else STALE) if still.graded else BETWEEN
    message = f"{still.steps} optimizer steps in a row, since step {still.since}, changed no parameter"
    numbers = {"with a gradient": still.graded, "gradient norm": still.grad_norm, "backward passes": still.backwards}
    return Finding("warning" if still.frozen else "error", message, fix, {**numbers, "lr": still.learning_rate})


def _unmoved(tower: str, seen: list[Seen], setup: Setup | None) -> Finding | None:
    """A tower that is frozen and moved, or gets gradients and not one of its parameters moved in any measured step."""
    if moved := sorted({p.name for p in seen if p.moved and not p.trainable}):
        message = f"{len(moved)} frozen parameters of tower '{tower}' moved, e.g. {moved[0]}"
        fix = "set their gradients to None when freezing, and leave them out of the optimizer"
        return Finding("error", message, fix, {"moved though frozen": moved[:5]})
    pulled = [p for p in seen if p.trainable and p.grad_norm]
    if not pulled or any(p.moved for p in seen) or all(p.dtype in LOW for p in pulled):
        return None
    held = [p for p in pulled if p.optimized]
    if not held:
        return _left_out(tower, anew, setup) if (anew := graded_anew(pulled)) else None
    rate = max(p.learning_rate or 0.0 for p in held)
    message = f"tower '{tower}' has gradients, but none of its parameters moved in any measured step"
    numbers = {"largest gradient norm": max(p.grad_norm or 0.0 for p in held), "learning rate": rate}
    return Finding("error", message, f"group of '{tower}': {STALE if rate else 'set lr above 0 (it is 0)'}", numbers)


def _left_out(tower: str, pulled: list[Seen], setup: Setup | None) -> Finding:
    """Surely wrong with a plan that says it learns or an optimizer of foreign tensors; else only wasteful."""
    sure = setup and (setup.orphans or (tower in setup.towers and setup.towers[tower].planned in ("all", "part")))
    names = sorted({p.name for p in pulled})
    message = f"tower '{tower}' requires gradients, but the optimizer holds none of its {len(names)} parameters"
    return Finding("error" if sure else "warning", message, _remedy(setup, ADD), {"parameters": names[:5]})


def _remedy(setup: Setup | None, otherwise: str) -> str:
    return LATE.format(setup.orphans) if setup and setup.orphans else otherwise


def specimen(run: Run, *, faulty: bool) -> None:
    """The optimizer is made before the head is replaced."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    if not faulty:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    for _ in range(4):
        model.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
