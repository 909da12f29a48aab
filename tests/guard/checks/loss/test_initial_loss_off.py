"""T7 on bare evidence: what is far, and whose head is untrained."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.loss.initial_loss_off import find
from sightline.guard.evidence import HeadSeen, LossSeen

HEAD = HeadSeen(0, "head.weight", inputs=64, classes=100, rms=(3 * 64) ** -0.5, kurtosis=1.8)
LOSS = LossSeen(0, 0, 32, 1 / 32, 1.0, 0.0, loss=log(100), classes=100)
SURE = replace(LOSS, loss=4 * log(100))


def test_far_above_and_far_below() -> None:
    above, below = find(SURE, HEAD), find(replace(LOSS, loss=1.0), HEAD)
    assert isinstance(above, Finding) and "normalise" in above.fix
    assert isinstance(below, Finding) and "among the inputs" in below.message
    wide = find(SURE, replace(HEAD, rms=3.0, kurtosis=3.0))
    assert isinstance(wide, Finding) and "standard deviation 0.12 (it has 3)" in wide.fix


@pytest.mark.parametrize(
    ("loss", "head"),
    [
        (LOSS, HEAD),
        (replace(LOSS, loss=2.9 * log(100)), HEAD),
        (replace(LOSS, loss=0.51 * log(100)), HEAD),
        (SURE, replace(HEAD, kurtosis=6.0)),
        (replace(LOSS, loss=1.0), replace(HEAD, rms=0.3)),
        (replace(LOSS, loss=1.0), replace(HEAD, bias_rms=1.0)),
        (replace(SURE, supervised=1000, loss=3.5 * log(100)), HEAD),
        (SURE, replace(HEAD, rms=1.0, kurtosis=3.0, embeds=True)),
    ],
    ids=["chance", "thrice", "half", "trained", "unusual", "a prior in the bias", "worst of many", "tied"],
)
def test_silent(loss: LossSeen, head: HeadSeen) -> None:
    assert find(loss, head) is None


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
    assert isinstance(find(loss, HEAD), CannotTell)
