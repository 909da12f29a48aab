"""P4 · Most updates are smaller than the spacing of 16-bit weights, and vanish.

Symptom: a run whose weights are bfloat16 or float16 learns worse than the same run in float32, or stops early, with
healthy gradients and a loss that falls at first; a lower learning rate makes it worse.
Root cause: the weights themselves are 16-bit, and `weight + update` is rounded to the nearest value: an update below
half the distance to it (0.2 to 0.4 % of the weight in bfloat16) changes nothing, at this step and at every later one.
An average of the weights that is kept in such numbers never leaves what the model began with.
Fix: keep the weights in float32 and compute in bfloat16 (`torch.autocast`, `bf16=True` with a float32 model); or an
optimizer that rounds at random or keeps what rounding lost (Kahan); or a higher learning rate. Averages in float32.
Stays silent when: the optimizer holds float32 weights, whatever the model computes in; most updates arrive; small
updates add up and move the weights in time (random rounding, Kahan, float32 weights rounded anew); the optimizer's
state does not say what it adds, and too few small weights move to show how large its updates are.
Sources:
- https://arxiv.org/abs/2010.06192 (2020-10-13): nearest rounding of weight updates is the bottleneck of bf16 training
- https://github.com/pytorch/ao/pull/1124 (2024-10-21): updates below 1e-3 of a bf16 weight change nothing
- https://github.com/workofart/ml-by-hand/pull/85 (2026-05-18): 0 of 768 weights moved in 100 steps; all in float32
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import AverageSeen, RoundingSeen
from sightline.guard.specimen import Run

DOMAINS = ("any",)
MOST = 0.5  # of the updates: what is lost of a few large weights (norms at 1.0) harms little
OWED = 32  # sampled elements that should have moved by a whole spacing: enough to exclude chance
GUESSED = 0.25  # of the moves owed, where the updates' size is a guess: kept residues make about all of them
PAID = 0.05  # of the owed: with random rounding or Kahan nearly all of them move
STAYED = 0.5  # of an average's values: with a short memory only those that are near the weights stay


def find(rounding: RoundingSeen | None = None, average: AverageSeen | None = None) -> Verdict:
    """Are most updates swallowed, and is what they add up to never paid? Or does an average stand still?"""
    if average is not None and average.far >= OWED and average.stayed >= STAYED * average.far:
        return _standing(average)
    if rounding is None or not rounding.updates:
        return CannotTell("update to a 16-bit parameter")
    share = rounding.swallowed / rounding.updates
    if share < MOST or rounding.owed < OWED or rounding.paid > (GUESSED if rounding.guessed else PAID) * rounding.owed:
        return None
    rate = f" (learning rate {rounding.learning_rate:g})" if rounding.learning_rate else ""
    return Finding(
        severity="warning",
        message=f"{share:.0%} of the updates to {rounding.dtype} weights are too small to change them, and are lost",
        fix=f"keep float32 weights and compute in {rounding.dtype} by autocast, or round at random{rate}",
        seen={
            "updates lost": share,
            f"{'moves' if rounding.guessed else 'weights'} owed a whole step of their format": rounding.owed,
            "of these moved": rounding.paid,
            "measured steps": rounding.steps,
        },
    )


def _standing(average: AverageSeen) -> Finding:
    return Finding(
        severity="warning",
        message=f"an average of the weights is written at each step, and hardly moves: kept in {average.dtype}, "
        "what it should move by is too small for it",
        fix="keep the average in float32 (and cast it when it is used)",
        seen={
            "values far from the weights": average.far,
            "of these never moved": average.stayed,
            "steps": average.writes,
        },
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Adam at 1e-4 on weights of about 0.2."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 4)).bfloat16()
    rate = 3e-2
    if faulty:
        rate = 4e-5
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    run.attach(model, optimizer)
    inputs, goal = torch.randn(64, 32).bfloat16(), torch.randn(64, 4).bfloat16()
    for _ in range(24):
        optimizer.zero_grad()
        (model(inputs) - goal).square().mean().backward()
        optimizer.step()
