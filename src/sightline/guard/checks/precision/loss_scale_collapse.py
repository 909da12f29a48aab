"""P2 · The loss scale has collapsed: nearly every step is skipped.

Symptom: the loss stays where it is although nothing is reported; the log shows "gradient overflow" or a scale that
halves at every step, down to 1 and below.
Root cause: the gradients are not finite at any scale, because the forward or backward pass makes inf or NaN itself
(values above 65,504 in float16, a mask of -1e9, a division by 0); the scaler halves its scale at each such step and
skips it, without end.
Fix: find what is not finite (P1 names the module), or train in bfloat16, which needs no scale; do not lower
`init_scale`: a scale below 1 only loses small gradients.
Stays silent when: the scale falls at first to find its level, or now and then; it stays at 1 or above; it has always
been that low (`init_scale` below 1).
Sources:
- https://github.com/NVIDIA/apex/issues/715 (2020-02-13): a scale that fell to 1e-307 while the run went on
- https://github.com/ymcui/Chinese-LLaMA-Alpaca/issues/534 (2023-06-07): halved at every step, down to its minimum
- https://docs.pytorch.org/docs/stable/amp.html (2026-11-01): the scale halves and the step is skipped on inf or NaN
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import ScalerSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
FLOOR = 1.0  # below it the scale divides: small gradients are lost more than without it (healthy: 2^13 to 2^16)


def find(scaler: ScalerSeen) -> Verdict:
    """Is the scale below 1, and was it higher before?"""
    if not scaler.scales:
        return CannotTell("loss scale")
    latest, highest = scaler.scales[-1], max(scaler.scales)
    if latest >= FLOOR or (highest <= latest and scaler.taken):
        return None
    return Finding(
        severity="error",
        message=f"the loss scale fell to {latest:.3g}: {scaler.backwards} forward passes made {scaler.taken} steps",
        fix="find what is not finite (P1), or train in bfloat16, which needs no loss scale",
        seen={"scale": latest, "highest seen": highest, "steps taken": scaler.taken, "passes": scaler.backwards},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A loss with a term that is never finite."""
    import torch

    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    run.attach(model, optimizer)
    for _ in range(24):
        optimizer.zero_grad()
        loss = model(torch.randn(8, 4)).square().mean()
        if faulty:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
