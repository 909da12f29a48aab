"""T7 on bare evidence: what is far, and whose head is untrained."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.loss.initial_loss_off import find
from sightline.guard.evidence import BinaryLossSeen, HeadSeen, LossSeen

HEAD = HeadSeen(0, "head.weight", inputs=64, classes=100, rms=(3 * 64) ** -0.5, kurtosis=1.8)
LOSS = LossSeen(0, 0, 32, 1 / 32, 1.0, 0.0, loss=log(100), classes=100)
SURE = replace(LOSS, loss=4 * log(100))


def test_far_above_and_far_below() -> None:
    above, below = find(HEAD, SURE), find(HEAD, replace(LOSS, loss=1.0))
    assert isinstance(above, Finding) and "normalise" in above.fix
    assert isinstance(below, Finding) and "among the inputs" in below.message
    wide = find(replace(HEAD, rms=3.0, kurtosis=3.0), SURE)
    assert isinstance(wide, Finding) and "standard deviation 0.12 (it has 3)" in wide.fix
    for drawn in (replace(HEAD, kurtosis=2.34), replace(HEAD, kurtosis=6.0, fresh=True)):  # cut at two deviations
        assert isinstance(find(drawn, SURE), Finding)


@pytest.mark.parametrize(
    ("loss", "head"),
    [
        (LOSS, HEAD),
        (replace(LOSS, loss=2.9 * log(100)), HEAD),
        (replace(LOSS, loss=0.51 * log(100)), HEAD),
        (SURE, replace(HEAD, kurtosis=6.0)),
        (replace(LOSS, loss=1.0), replace(HEAD, rms=0.3)),
        (replace(LOSS, loss=1.0), replace(HEAD, bias_rms=1.0)),
        (replace(LOSS, loss=1.0), replace(HEAD, fresh=False)),
        (replace(SURE, supervised=1000, loss=3.5 * log(100)), HEAD),
        (SURE, replace(HEAD, rms=1.0, kurtosis=3.0, embeds=True)),
    ],
    ids=["chance", "thrice", "half", "trained", "unusual", "prior in the bias", "written to", "worst of many", "tied"],
)
def test_silent(loss: LossSeen, head: HeadSeen) -> None:
    assert find(head, loss) is None


@pytest.mark.parametrize(
    "loss",
    [
        replace(SURE, step=1),
        replace(SURE, micro=1),
        replace(SURE, loss=None),
        replace(SURE, softmax_rows=0.5),
        replace(SURE, classes=7),
    ],
)
def test_what_cannot_be_told(loss: LossSeen) -> None:
    assert isinstance(find(HEAD, loss), CannotTell)


ROW = HeadSeen(0, "head.weight", inputs=64, classes=1, rms=(3 * 64) ** -0.5, kurtosis=1.8)
GUESS = BinaryLossSeen(0, classes=1, outputs=32, graded=1.0, fits=1.0, loss=log(2), ones=0.5)


def test_yes_or_no_far_above_and_far_below() -> None:
    above, below = find(ROW, binary=replace(GUESS, loss=5.0)), find(ROW, binary=replace(GUESS, loss=0.1))
    assert isinstance(above, Finding) and "a guess among 2 has 0.693" in above.message
    assert isinstance(below, Finding) and "among the inputs" in below.message


@pytest.mark.parametrize(
    ("binary", "head"),
    [
        (GUESS, ROW),
        (replace(GUESS, loss=3.6), ROW),
        (replace(GUESS, loss=0.36), ROW),
        (replace(GUESS, loss=0.1, ones=0.01), ROW),
        (replace(GUESS, loss=0.2, ones=0.1), ROW),
        (replace(GUESS, loss=0.01, ones=1.0), ROW),
        (replace(GUESS, loss=0.1, graded=0.9), ROW),
        (replace(GUESS, loss=5.0), replace(ROW, kurtosis=9.0)),
        (replace(GUESS, loss=0.1), replace(ROW, bias_rms=2.0)),
    ],
    ids=[
        "chance",
        "large",
        "half",
        "rare",
        "a prior of one in ten",
        "one kind",
        "masked",
        "trained",
        "a prior in the bias",
    ],
)
def test_yes_or_no_silent(binary: BinaryLossSeen, head: HeadSeen) -> None:
    assert find(head, binary=binary) is None


@pytest.mark.parametrize("change", [{"fits": 0.5}, {"outputs": 8}, {"classes": 3}])
def test_yes_or_no_that_cannot_be_told(change: dict[str, float]) -> None:
    assert isinstance(find(ROW, binary=replace(GUESS, loss=9.0, **change)), CannotTell)
