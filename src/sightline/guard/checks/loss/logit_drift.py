"""L6 · Logits run away from zero, or the loss breaks out and does not come back.

Symptom: the loss jumps within a few steps to a level worse than guessing and stays there; or the loss looks healthy
while log Z (the logarithm of softmax's denominator) grows from step to step, until bf16 logits are too coarse.
Root cause: cross-entropy does not see a constant added to all logits, so nothing holds log Z near zero; and a step
that is too large for the curvature (rate too high, no warm-up, no clipping, a wild batch) throws weights where
gradients no longer lead back.
Fix: lower the learning rate and warm it up over 1 to 10 % of the steps, clip the gradient norm at 1.0; against drift
add a z-loss of 1e-4 x log(Z)^2, or normalise queries and keys.
Stays silent when: the loss falls, wobbles or rises within what data of changing difficulty do (no worse than guessing,
less than twice where it began); log Z is far from zero from the start (pretrained GPT-2), or large but no longer grows;
logits are no scores over a vocabulary. Jumps of the loss that heal by themselves are a note.
Sources:
- https://github.com/NVIDIA/Megatron-LM/pull/1442 (2025-02-28): z-loss against logits that explode in the last layer
- https://github.com/AI-Hypercomputer/maxtext/pull/3211 (2026-02-21): z-loss for training in bf16 and fp8
- https://github.com/baichuan-inc/Baichuan2/issues/174 (2023-09-25): logits that shift to larger values over training
- https://github.com/stanford-crfm/mistral/issues/115 (2022-03-10): spikes in the loss that take long to heal
"""

from __future__ import annotations

from math import isfinite, log
from statistics import fmean, median

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import History, LossSeen, Setup, StepSeen
from sightline.guard.evidence.trends import levels, spikes
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
SOFTMAX = 0.9  # of the positions must look like cross-entropy: else a loss is in other units
EXACT = 256  # supervised positions up to which `LossSeen` reads every one, so that its mean loss is the batch's
LATE, START = 8, 4  # steps: longer than a spike that heals, and what the run began with
WORSE, NATS = 1.2, 0.5  # above guessing and above the start: being confidently wrong, which no harder data explain
BROKEN = 2.0  # times the start of a trained model, and one nat: more than a change of domain does to it
HOPELESS = 3.0  # times guessing: a rate that throws a model so far does not let it come back
FALLS = 0.8  # a level that falls by a fifth within eight steps is on its way back
READINGS = 12  # of log Z: four a third
FAR = {"bfloat16": 64.0}  # there two neighbouring numbers lie 0.5 apart: e^0.25 is a wrong probability
ELSE = 128.0  # in finer formats: no rounding yet, but no healthy run was seen there
SPIKES = 3  # one or two are a part of life


def find(history: History, setup: Setup) -> Verdict:
    """Did the loss leave for good, does log Z grow without end, does the loss jump again and again?"""
    read = [s for s in history.measured if s.micro and all(_language(m, setup) for m in s.micro)]
    losses = [value for s in history.steps if (value := _loss(s)) is not None and isfinite(value)]
    if not read or len(losses) < START + LATE:
        return CannotTell(f"cross-entropy over a vocabulary, with {START + LATE} losses in nats")
    classes = read[-1].micro[0].classes or 2
    return _broken(losses, log(classes)) or _drift(read) or _spikes(losses)


def _language(micro: LossSeen, setup: Setup) -> bool:
    vocabulary = micro.targets is not None or micro.classes == setup.embedding_rows
    return vocabulary and micro.log_z is not None and micro.softmax_rows >= SOFTMAX


def _loss(step: StepSeen) -> float | None:
    if step.loss is not None:
        return step.loss
    exact = [m.loss for m in step.micro if m.loss is not None and m.supervised <= EXACT]
    return fmean(exact) if exact and len(exact) == len(step.micro) else None


def _broken(losses: list[float], chance: float) -> Finding | None:
    start, late = min(losses[:START]), losses[-LATE:]
    if start > HOPELESS * chance:  # not in nats a token (a sum?), or T7's case
        return None
    guess = WORSE * max(start, chance) + NATS
    lost = min(late) > guess
    heals = median(late[LATE // 2 :]) < FALLS * median(late[: LATE // 2]) and min(late) < HOPELESS * guess
    if heals or not (lost or min(late) > BROKEN * start + 1.0):
        return None
    what = f"guessing ({chance:.2f})" if lost else f"twice its start ({start:.2f})"
    return Finding(
        severity="error" if lost else "warning",
        message=f"the loss is worse than {what} for {LATE} steps: {median(late):.3g} nats a token, it has diverged",
        fix="lower the learning rate (by 3 to 10), warm it up over 1 to 10 % of the steps, clip gradients at 1.0",
        seen={"first losses": losses[:START], "last losses": late, "ln V": chance},
    )


def _drift(read: list[StepSeen]) -> Finding | None:
    if len(read) < READINGS:
        return None
    sizes = [fmean(abs(m.log_z or 0.0) for m in step.micro) for step in read]
    first, middle, last = levels(sizes)
    kind = read[-1].micro[0].dtype or "float32"
    far = FAR.get(kind, ELSE)
    if not (max(sizes[:START]) <= far / 4 and first < middle < last and min(sizes[-START:]) > far):
        return None
    return Finding(
        severity="warning",
        message=f"log Z went from {sizes[0]:.3g} to {sizes[-1]:.3g} and grows: the logits drift ({kind})",
        fix="add a z-loss of 1e-4 x logsumexp(logits)^2 (it is 0), clip gradients at 1.0, lower the learning rate",
        seen={"log Z by thirds": [first, middle, last], "largest logit": read[-1].micro[0].largest_logit},
    )


def _spikes(losses: list[float]) -> Finding | None:
    found = spikes(losses)
    if len(found) < SPIKES:
        return None
    return Finding(
        severity="note",
        message=f"the loss jumped {len(found)} times and took several steps to come back",
        fix="clip the gradient norm at 1.0, lengthen the warm-up, or look at the batches of those steps",
        seen={"losses at the jumps": [losses[place] for place in found]},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Texts that cannot be foretold; the fault is a learning rate ten thousand times too high."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=10.0 if faulty else 1e-3)
    run.attach(model, optimizer)
    for _ in range(16):
        ids = torch.randint(0, 16, (8, 12))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
