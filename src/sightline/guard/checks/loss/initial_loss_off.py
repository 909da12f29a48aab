"""T7 · An untrained model's first loss is far from that of a guess among equals.

Symptom: the first loss is several times ln C for C classes, and the first hundred steps only bring it down to there; or
it is far below, and the model that learns so fast is useless outside of training. For yes or no, C is 2.
Root cause: above: the output layer or what feeds it is far too large (an init that ignores the width, an embedding of
normal(0, 1) weights tied to the head, inputs of 0 to 255, a temperature on vectors that were not normalised), so that
the model is sure, and wrong. Below: the answer is among the inputs.
Fix: weights of the output layer with standard deviation 0.02 or 1/sqrt(inputs), inputs normalised to about unit
variance; check that labels are shifted against the inputs and are no part of them.
Stays silent when: the loss is no cross-entropy, of softmax or of yes and no; the output layer was trained before (its
weights are not distributed as an init is, or go on from others' average); the first loss lies between half of ln C and
three times that; of pairs, vectors have one length, or nothing sharpens their products.
Sources:
- https://karpathy.github.io/2019/04/25/recipe/ (2019-04-25): verify the loss at init: -log(1/C) on a softmax
- https://cs231n.github.io/neural-networks-3/ (2026-11-21): look for the correct loss at chance performance
- https://arxiv.org/abs/2204.00400 (2022-04-01): TheDeepChecker compares the initial loss with the expected one
"""

from __future__ import annotations

from math import log

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import BinaryLossSeen, HeadSeen, LossSeen, PairLossSeen
from sightline.guard.evidence.learning import ABOVE, NATS, NEAR
from sightline.guard.specimen import Run

DOMAINS = ("any",)
BELOW = 0.5  # of ln C: an untrained model knows nothing, whatever its init
SOFTMAX = 0.9  # of the positions must look like cross-entropy
TIED = 6.0  # times ln C where the head is an embedding of normal(0, 1), torch's default: narrow models unlearn it
ALL, WORST = 256, 3.0  # positions: of more, the loss is that of the worst ones, by nats higher than the mean
ELEMENTS = 64  # weights: fewer show no distribution
FEW, RARE = 16, 0.05  # outputs, and weights, of yes or no (a row is short); of rarer answers guesses are sure
SHAPES = (1.8, 2.37, 3.0)  # kurtosis of uniform weights, normal ones cut at two deviations, and all; trained: more
LARGE = 2.0  # times the largest of the usual inits: such weights are told as the cause


def find(
    head: HeadSeen | None = None,
    loss: LossSeen | None = None,
    binary: BinaryLossSeen | None = None,
    pairs: PairLossSeen | None = None,
) -> Verdict:
    """Compare the first micro-batch's loss per position with ln C, where the head is as an init leaves it."""
    if pairs is not None and pairs.sure:
        return _unlike(pairs)
    if head is None:
        return CannotTell("output layer of the run's first logits")
    first = binary if binary and not binary.step and binary.classes == head.classes else None
    if first and first.fits >= SOFTMAX and first.outputs >= FEW:
        return _yes_or_no(first, head) if _drawn(head, FEW) else None
    if loss is None or loss.step or loss.micro or loss.loss is None or not loss.classes or loss.classes < 2:
        return CannotTell("cross-entropy in the run's first backward pass")
    if loss.softmax_rows < SOFTMAX or loss.classes != head.classes:
        return CannotTell("first loss that is a softmax cross-entropy of the last layer's outputs")
    if not _drawn(head):
        return None
    chance = log(loss.classes)
    margin = max(NATS, ABOVE * chance) + (WORST if loss.supervised > ALL else 0.0)
    tied = head.embeds and abs(head.rms - 1) <= NEAR
    if loss.loss > max(chance + margin, TIED * chance if tied else 0.0):
        return _above(loss.loss, chance, head)
    if loss.loss < BELOW * chance and head.usual and loss.probability_rows < SOFTMAX:
        return _finding(
            loss.loss, chance, head, "far below: the answer is among the inputs", "keep the labels out of the inputs"
        )
    return None


def _unlike(seen: PairLossSeen) -> Finding:
    what = f"the first loss is {seen.loss:.3g}, where a guess among {seen.pairs} pairs has {log(seen.pairs):.3g}"
    why = f"scores are products of vectors of any length, times {seen.factor:.3g}"
    fix = "bring the vectors to unit length ahead of their product: F.normalize(v, dim=-1)"
    return Finding("warning", f"{what}: {why}", fix, {"relative spread of lengths": seen.lengths})


def _yes_or_no(binary: BinaryLossSeen, head: HeadSeen) -> Finding | None:
    """A guess has ln 2, or less where the bias starts at how often the answer is yes."""
    if binary.loss > log(2) + NATS:
        return _above(binary.loss, log(2), head)
    p = min(binary.ones, 1 - binary.ones)
    prior = -p * log(p) - (1 - p) * log(1 - p) if p else 0.0
    if p >= RARE and binary.graded == 1 and binary.loss < BELOW * prior and head.usual:
        return _finding(
            binary.loss, log(2), head, "far below: the answer is among the inputs", "keep labels out of them"
        )
    return None


def _above(value: float, chance: float, head: HeadSeen) -> Finding:
    usual = max(head.inits)
    if head.rms > LARGE * usual:
        fix = f"init {head.name} with standard deviation {head.inputs**-0.5:.2g} (it has {head.rms:.2g})"
    else:
        fix = f"normalise what reaches {head.name}: inputs of unit variance, a norm before the output layer"
    return _finding(value, chance, head, "far above: the untrained model is sure, and wrong", fix)


def _finding(value: float, chance: float, head: HeadSeen, what: str, fix: str) -> Finding:
    return Finding(
        severity="warning",
        message=f"the first loss is {value:.3g}, where a guess among {max(2, head.classes)} has {chance:.3g}: {what}",
        fix=fix,
        seen={"first loss": value, "ln C": chance, "output layer": head.name, "root mean square": head.rms},
    )


def _drawn(head: HeadSeen, least: int = ELEMENTS) -> bool:
    """Whether the weights are distributed as an init draws them, at whatever size; or are all zero."""
    size = head.inputs * head.classes
    slack = 0.1 + 2 * (24 / size) ** 0.5  # two standard errors of a sample's kurtosis
    return head.rms == 0 or (size >= least and (head.fresh or any(abs(head.kurtosis - s) <= slack for s in SHAPES)))


def specimen(run: Run, *, faulty: bool) -> None:
    """A classifier of ten classes, at its first steps."""
    import torch
    from torch import nn

    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10))
    scale = 1.0
    if faulty:
        scale = 255.0
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    run.attach(model, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(scale * torch.rand(32, 32)), torch.randint(0, 10, (32,))).backward()
        optimizer.step()
