"""P3 · Gradients are clipped at the wrong moment: while they still carry the loss scale, or when none waits for a step.

Symptom: with float16 the run learns next to nothing at a rate that works in float32 (SGD), or no spike is ever clipped
as it should be, because all steps are (Adam); the gradient norm in the log is always about 65,536 times too large.
Root cause: `clip_grad_norm_` before `scaler.unscale_(optimizer)`: the norm of scaled gradients is far above `max_norm`,
so each step is cut to max_norm / scale. Or a parameter's hook clamps its gradient, which in the backward pass is still
scaled. Or `optimizer.step()` in place of `scaler.step(optimizer)`: nobody unscales. Or, with no scaler, it comes after
the optimizer's step or before the backward pass: nothing is ever clipped.
Fix: call `scaler.unscale_(optimizer)` after the backward pass and before `clip_grad_norm_` or `clip_grad_value_`; and
step by `scaler.step(optimizer)`. A hook's limit: multiply it by `scaler.get_scale()`. Without a scaler: clip between
the backward pass and the step.
Stays silent when: the gradients that reach the optimizer vary from step to step as the unclipped ones do, or have the
norm (or largest value) that they were clipped to after unscaling; one call of the first twelve finds gradients that
wait for a step; the limit is above all norms, so that it only measures.
Sources:
- https://github.com/milesial/Pytorch-UNet/issues/468 (2023-11-04): clipped before unscaling; mended in pull 470
- https://github.com/victorchall/EveryDream2trainer/pull/175 (2023-05-21): it effectively halts training
- https://github.com/pytorch/examples/issues/1196 (2023-10-27): the same in an official example
- https://docs.pytorch.org/docs/stable/notes/amp_examples.html (2026-11-01): unscale before clipping
"""

from __future__ import annotations

from statistics import median

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import ClippedSeen, ScaledStep, ScalerSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
STEPS = 4  # measured steps whose norm, scaled, is one and the same number: real ones differ by percents
EXACT = 2e-3  # relative: float32 sums, and the 1e-6 that clip_grad_norm_ adds
LIMITS = (1e-3, 16.0)  # a limit in use (0.01 to 10): clipped after unscaling to this / scale makes no sense
SCALE = 256.0  # least scale that tells the orders apart: 0.5, a limit in use, over it is below `LEAST`
LEAST = 2e-3  # of a limit over the scale: below any limit in use, so that it was not clipped to that after unscaling
FAR, LARGER = 16.0, 1.5  # times: ranks that are averaged differ by less; a clipped norm is exact
LEVEL = 8  # values that are as large as the largest in every step: a clamp makes them, and nothing else in use
UNSCALE = "call scaler.unscale_(optimizer)"
CUT = 0.5  # of the gradient left, by one parameter's norm after its backward pass: it was really clipped


def find(scaler: ScalerSeen | None = None, clipped: ClippedSeen | None = None) -> Verdict:
    """Is the norm (or largest value) of the unscaled gradients, times the scale, the same in all steps?

    And does any clipping come between a backward pass and a step?
    """
    if clipped is not None and clipped.late + clipped.early >= clipped.calls:
        return _in_vain(clipped)
    if scaler is None:
        return None
    steps = [s for s in scaler.steps if s.scale >= SCALE and 0 < s.norm < float("inf") and s.kept is not None]
    if len(steps) < STEPS:
        return CannotTell(f"{STEPS} measured steps under a loss scale of {SCALE:g} or more")
    recent = steps[-STEPS:]
    if least := _never(recent):
        message = f"the optimizer steps with gradients {least:.3g} times too large: the loss scale is still on them"
        fix = "call scaler.step(optimizer) and scaler.update() in place of optimizer.step()"
        return Finding("error", message, fix, {"loss scale": recent[-1].scale, "gradient norm": recent[-1].norm})
    cut = all(s.kept is not None and s.kept <= CUT for s in recent)
    if cut and (limit := _limit(recent, "norm")):
        return _finding(recent[-1], "norm", f"{UNSCALE} before clip_grad_norm_", limit)
    if (cut or all(s.level >= LEVEL for s in recent)) and (limit := _limit(recent, "largest value")):
        fix = (
            f"{UNSCALE} before clip_grad_value_" if cut else f"{UNSCALE} and clamp after it, not in a parameter's hook"
        )
        return _finding(recent[-1], "largest value", fix, limit)
    return None


def _in_vain(clipped: ClippedSeen) -> Finding:
    late = clipped.late >= clipped.early
    when = "after the step that used them" if late else "before the backward pass that makes them"
    message = f"gradients are clipped {when}, in all of the first {clipped.calls} calls: steps take them unclipped"
    seen = {"calls": clipped.calls, "after the step": clipped.late, "without a gradient": clipped.early}
    return Finding("warning", message, "clip between loss.backward() and optimizer.step()", seen)


def _never(steps: list[ScaledStep]) -> float | None:
    """How much larger than the true ones the gradients are at least, where nobody unscaled them.

    By far; or, clipped to one norm, by some: clipping makes none larger.
    """
    kept = [s.kept or 0.0 for s in steps]
    norms = [s.norm for s in steps]
    clipped = max(norms) - min(norms) <= EXACT * max(norms)
    return min(kept) if min(kept) > (LARGER if clipped else FAR) else None


def _limit(steps: list[ScaledStep], what: str) -> float | None:
    """The one value that the scaled gradients have in every step, where it is a limit in use."""
    values = [(s.norm if what == "norm" else s.largest) * s.scale for s in steps]
    middle = median(values)
    same = all(abs(value - middle) <= EXACT * middle for value in values)
    in_use = LIMITS[0] <= middle <= LIMITS[1] and middle <= LEAST * min(s.scale for s in steps)
    return middle if same and in_use else None


def _finding(last: ScaledStep, what: str, fix: str, limit: float) -> Finding:
    return Finding(
        severity="error",
        message=f"the gradients' {what} was cut to {limit:.3g} under a loss scale of {last.scale:g},"
        f" so {limit / last.scale:.2g} of it is left",
        fix=fix,
        seen={f"scaled {what}": limit, "scale": last.scale, "share of the gradient kept": last.kept},
        step=last.step,
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A regression under a loss scale, with clipping."""
    import torch
    from torch import nn

    model = nn.Linear(16, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu")
    run.attach(model, optimizer)
    for _ in range(6):
        optimizer.zero_grad()
        scaler.scale((model(torch.randn(8, 16)) - 3).square().mean()).backward()
        if not faulty:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
