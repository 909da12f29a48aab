"""P1 · The loss, a gradient or a weight is NaN or infinite.

Symptom: the loss is logged as nan or inf, or stays constant from some step on; every later answer of the model is the
same. With a GradScaler the run looks alive, but steps are skipped for ever. A loop that skips what is not finite never
trains on some of its samples.
Root cause: a logarithm or square root of zero, a division by zero, attention rows with everything masked, a value
above 65,504 in float16, or a step so large that the weights overflow. One such value spreads to all weights in one
step. The loss can be finite and its gradient not: the slope of a root at zero is infinite, and times 0 (of a square, a
mask, the other branch of `where`) that is NaN.
Fix: mend the module that is named (add an eps, clamp, leave one visible key per row); for an operation of the backward
pass put the eps inside, `sqrt(x + eps)`, or give it a harmless input where a mask hides its output: `where` before it
and after it; else use bf16 in place of fp16, clip the gradient norm at 1.0, and lower the learning rate or lengthen the
warm-up.
Stays silent when: a GradScaler meets infinities now and then while it looks for its scale: it skips those steps, so
the optimizer never sees them; fewer than three batches, or one of 200, are left out for a forward pass of NaN, or not
the same ones again.
Sources:
- https://huggingface.co/transformers/v4.8.0/debugging.html (2026-11-21): the first overflow, looked for by module
- https://pytorch.org/docs/1.5.0/_sources/notes/amp_examples.rst.txt (2026-11-21): scaled gradients, skipped steps
"""

from __future__ import annotations

from math import isfinite

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import LeftOutSeen, StepSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
AGAIN, TWICE = 3, 2  # batches that were left out, and those of them that gave NaN a second time: not by chance
RARE = 0.005  # of the batches: fewer may be single odd samples that a guard is there for
EPS = {  # operation of the backward pass -> what keeps its slope finite
    "Sqrt": "sqrt(x + eps)",
    "Rsqrt": "rsqrt(x + eps)",
    "Log": "log(x + eps)",
    "Pow": "(x + eps) ** p",
    "Div": "x / (y + eps)",
    "Reciprocal": "1 / (y + eps)",
    "LinalgVectorNorm": "(x.square().sum() + eps).sqrt()",
}


def find(step: StepSeen | None = None, left: LeftOutSeen | None = None) -> Verdict:
    """Any number of this step that is not finite: loss first, then gradients, weights, and skipped batches."""
    skipped = _left_out(left) if left is not None and (step is None or step.step <= left.step) else None
    if step is None or (step.loss is None and not step.parameters):
        return skipped or CannotTell("loss and no measured parameters")
    gradients = [p.name for p in step.parameters if p.grad_norm is not None and not isfinite(p.grad_norm)]
    weights = [p.name for p in step.parameters if not isfinite(p.weight_norm)]
    if step.loss is not None and not isfinite(step.loss):
        what = f"the loss is {step.loss}"
    elif gradients:
        what = f"the gradients of {len(gradients)} parameters are not finite, e.g. {gradients[0]}"
    elif weights:
        what = f"{len(weights)} parameters hold values that are not finite, e.g. {weights[0]}"
    else:
        return skipped
    origin, steep = step.first_non_finite, (step.first_gradient or "").removesuffix("Backward0")
    told = f"; the first output that is not finite is that of {origin}" if origin else ""
    if step.spoiled:
        told = "; the weights were not finite when it was computed: an earlier step made them so"
    if steep:
        told += f"; of finite gradients, {step.first_gradient} is the first to make others in the backward pass"
    fix = f"mend {origin}: no log, root or division of zero, no fully masked row" if origin else _general(step)
    return Finding(
        severity="error",
        message=what + told,
        fix=_eps(steep) if steep else fix,
        seen={
            "loss": step.loss,
            "gradients": gradients[:5],
            "weights": weights[:5],
            "first": origin,
            "first in the backward pass": step.first_gradient,
        },
    )


def _left_out(seen: LeftOutSeen) -> Finding | None:
    """Again and again, by what is in these very batches: not a scale that is still looked for, nor one odd file."""
    if seen.left_out < AGAIN or seen.asked < TWICE or seen.again < seen.asked or seen.left_out < RARE * seen.forwards:
        return None
    told = f"{seen.left_out} of {seen.forwards} batches gave outputs that are not finite, and nobody trained on them"
    where = "; the weights hold NaN" if seen.spoiled else f"; it first shows in {seen.origin}"
    return Finding(
        severity="warning" if seen.trained else "error",
        message=told + where,
        fix=f"mend what these batches meet in {seen.origin}, instead of skipping them: no log, root or division of"
        " zero, no fully masked row (give a row without keys one key, or a large negative number in place of -inf)",
        seen={"left out": seen.left_out, "forwards": seen.forwards, "NaN again": f"{seen.again} of {seen.asked}"},
    )


def _eps(operation: str) -> str:
    inside = EPS.get(operation.rstrip("012P"))
    how = f"put the eps inside, {inside}" if inside else f"keep the input of {operation.lower()} off where it is steep"
    return f"{how}; where a mask hides such values, torch.where on the input too: 0 times an infinite slope is NaN"


def _general(step: StepSeen) -> str:
    half = any(p.dtype == "float16" for p in step.parameters)
    return "use bfloat16 in place of float16" if half else "clip the gradient norm at 1.0 and lower the learning rate"


def specimen(run: Run, *, faulty: bool) -> None:
    """A model with a logarithm inside, whose eps is forgotten."""
    import torch
    from torch import nn

    class Log(nn.Module):
        eps = 1e-3

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu().add(self.eps).log()

    log, loss_fn = Log(), nn.MSELoss()
    if faulty:
        log.eps = 0.0
    model = nn.Sequential(nn.Linear(4, 4), log, nn.Linear(4, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    run.attach(model, optimizer, loss_fn=loss_fn)
    for _ in range(3):
        optimizer.zero_grad()
        loss_fn(model(torch.randn(8, 4)), torch.zeros(8, 1)).backward()
        optimizer.step()
