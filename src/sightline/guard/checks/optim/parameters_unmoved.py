"""T1 · Parameters that should learn do not move, or frozen ones do.

Symptom: the loss is flat, or falls less than it should, with healthy gradients; the saved weights of a tower equal
those it started from. The reverse: a tower that was frozen differs from its source after training.
Root cause: `optimizer.step()` is missing; the optimizer holds other tensors than the model does (it was made before
the model was rebuilt, resized or wrapped, or before parameters were unfrozen); the learning rate is zero; or a
parameter was frozen by `requires_grad` while a gradient was left behind for the optimizer to go on applying.
Fix: make the optimizer after the model is final, from its parameters with requires_grad; call `optimizer.step()` once
per accumulated batch; set the group's `lr` above 0; set gradients to None when freezing.
Stays silent when: each tower with a gradient moves in some measured step, whatever its single parameters do (a
parameter may rest without a gradient); the rate is 0 only while it warms up; or the tower's rounding loses updates
(P4).
Sources:
- https://github.com/pytorch/pytorch/issues/14467 (2018-11-28): an optimizer that trains a discarded model in silence
- https://github.com/microsoft/nni/issues/4521 (2022-02-07): a pruned model's new layers unknown to the old optimizer
- https://github.com/zjunlp/HVPNeT/issues/5 (2022-08-13): trainable layers left out of the optimizer
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import History, ParameterSeen, Progress, Setup
from sightline.guard.specimen import Run

DOMAINS = ("any",)
STEPS = 3  # measured steps before judging: a warm-up from 0 leaves the first one without an update
BACKWARDS = 256  # backward passes without a step: more than any accumulation in use
ENDED = 8  # backward passes of a run that is over: one that ended sooner may not have come to its first step
LOW = ("float16", "bfloat16")  # an update may round to nothing here, which is P4's business


def find(progress: Progress | None = None, history: History | None = None, setup: Setup | None = None) -> Verdict:
    """Were steps taken, and did each tower that learns move, and only those?"""
    if progress and not progress.steps and progress.backwards >= (ENDED if progress.closed else BACKWARDS):
        return Finding(
            severity="error",
            message=f"{progress.backwards} backward passes and not one optimizer step on the model's parameters",
            fix=_remedy(setup, "call optimizer.step() after the backward pass"),
            seen={"backward passes": progress.backwards, "optimizer steps": 0},
        )
    measured = history.measured if history else ()
    if len(measured) < STEPS:
        return CannotTell(f"{STEPS} measured optimizer steps")
    for tower in measured[-1].towers:
        seen = [p for step in measured for p in step.tower(tower)]
        if finding := _moved_though_frozen(tower, seen) or _unmoved(tower, seen, setup):
            return finding
    return None


def _moved_though_frozen(tower: str, seen: list[ParameterSeen]) -> Finding | None:
    moved = sorted({p.name for p in seen if p.moved and not p.trainable})
    if not moved:
        return None
    return Finding(
        severity="error",
        message=f"{len(moved)} frozen parameters of tower '{tower}' moved, e.g. {moved[0]}",
        fix="set their gradients to None when freezing, and leave them out of the optimizer",
        seen={"moved though frozen": moved[:5]},
    )


def _unmoved(tower: str, seen: list[ParameterSeen], setup: Setup | None) -> Finding | None:
    """A tower that gets gradients, but not one of whose parameters moved in any measured step."""
    pulled = [p for p in seen if p.trainable and p.grad_norm]
    if not pulled or any(p.moved for p in seen) or all(p.dtype in LOW for p in pulled):
        return None
    held = [p for p in pulled if p.optimized]
    if not held:
        return _left_out(tower, pulled, setup)
    rate = max(p.learning_rate or 0.0 for p in held)
    remedy = "set lr above 0 (it is 0)" if rate == 0 else "make the optimizer from the parameters of this model"
    return Finding(
        severity="error",
        message=f"tower '{tower}' has gradients, but none of its parameters moved in any measured step",
        fix=f"parameter group of '{tower}': {remedy}",
        seen={"largest gradient norm": max(p.grad_norm or 0.0 for p in held), "learning rate": rate},
    )


def _left_out(tower: str, pulled: list[ParameterSeen], setup: Setup | None) -> Finding:
    """Surely wrong with a plan that says it learns or an optimizer of foreign tensors; else only wasteful."""
    planned = setup.towers[tower].planned if setup and tower in setup.towers else None
    sure = planned in ("all", "part") or bool(setup and setup.orphans)
    names = sorted({p.name for p in pulled})
    return Finding(
        severity="error" if sure else "warning",
        message=f"tower '{tower}' requires gradients, but the optimizer holds none of its {len(names)} parameters",
        fix=_remedy(setup, "add them to a parameter group, or set requires_grad to False"),
        seen={"parameters": names[:5]},
    )


def _remedy(setup: Setup | None, otherwise: str) -> str:
    if setup and setup.orphans:
        return f"make the optimizer after the model is final: it holds {setup.orphans} elements of no parameter of it"
    return otherwise


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
        optimizer.zero_grad()
        model.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
