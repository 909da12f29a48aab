"""P1 · The loss, a gradient or a weight is NaN or infinite.

Symptom: the loss is logged as nan or inf, or stays constant from some step on; every later answer of the model is the
same. With a GradScaler the run looks alive, but steps are skipped for ever.
Root cause: a logarithm or square root of zero, a division by zero, attention rows with everything masked, a value
above 65,504 in float16, or a step so large that the weights overflow. One such value spreads to all weights in one
step.
Fix: mend the module that is named (add an eps, clamp, leave one visible key per row); else use bf16 in place of fp16,
clip the gradient norm at 1.0, and lower the learning rate or lengthen the warm-up.
Stays silent when: a GradScaler meets infinities now and then while it looks for its scale: it skips those steps, so
the optimizer never sees them.
Sources:
- https://huggingface.co/transformers/v4.8.0/debugging.html (2026-11-21): the first overflow, looked for by module
- https://pytorch.org/docs/1.5.0/_sources/notes/amp_examples.rst.txt (2026-11-21): scaled gradients, skipped steps
"""

from __future__ import annotations

from math import isfinite

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import StepSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)


def find(step: StepSeen) -> Verdict:
    """Any number of this step that is not finite: the loss first, then gradients, then weights."""
    if step.loss is None and not step.parameters:
        return CannotTell("loss and no measured parameters")
    gradients = [p.name for p in step.parameters if p.grad_norm is not None and not isfinite(p.grad_norm)]
    weights = [p.name for p in step.parameters if not isfinite(p.weight_norm)]
    if step.loss is not None and not isfinite(step.loss):
        what = f"the loss is {step.loss}"
    elif gradients:
        what = f"the gradients of {len(gradients)} parameters are not finite, e.g. {gradients[0]}"
    elif weights:
        what = f"{len(weights)} parameters hold values that are not finite, e.g. {weights[0]}"
    else:
        return None
    origin = step.first_non_finite
    return Finding(
        severity="error",
        message=what + (f"; the first output that is not finite is that of {origin}" if origin else ""),
        fix=f"mend {origin}: no log, root or division of zero, no fully masked row" if origin else _general(step),
        seen={"loss": step.loss, "gradients": gradients[:5], "weights": weights[:5], "first": origin},
    )


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
