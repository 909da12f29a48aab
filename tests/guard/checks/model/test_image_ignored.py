"""X5's borders: how large a gain, over how many pairs, after how many steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.model.image_ignored import CONNECTED, LEARNT, find
from sightline.guard.evidence import History, ImagePairsSeen, ParameterSeen, SignalsSeen, StepSeen
from sightline.guard.evidence.pictures import Pixels

FLAT = History(tuple(StepSeen(n, loss=2.0) for n in range(1, 65)))


def pairs(gain: float, noise: float, rows: int = 8, step: int = LEARNT, loss: float = 2.0) -> ImagePairsSeen:
    own = torch.full((rows,), loss)
    spread = torch.linspace(-1, 1, rows + 1)[1:] - 1 / rows
    return ImagePairsSeen(step, own, own + gain + noise * spread + 1e-5, changed=True)


def test_swapping_that_changes_nothing() -> None:
    same = torch.ones(2)
    assert find(ImagePairsSeen(CONNECTED, same, same, changed=False)).severity == "error"
    assert isinstance(find(ImagePairsSeen(CONNECTED - 1, same, same, changed=False)), CannotTell)


@pytest.mark.parametrize("step", [CONNECTED, LEARNT])
def test_a_model_that_looks(step: int) -> None:
    assert find(pairs(gain=0.5, noise=0.3, step=step), FLAT) is None


def test_a_model_that_does_not_look_though_it_had_the_time() -> None:
    verdict = find(pairs(gain=0.0, noise=0.005), FLAT)
    assert isinstance(verdict, Finding) and verdict.severity == "warning"


@pytest.mark.parametrize(
    "seen",
    [
        pairs(gain=0.0, noise=0.005, step=LEARNT - 1),  # too early
        pairs(gain=0.0, noise=0.3),  # too noisy
        pairs(gain=0.03, noise=0.1),  # a small effect, not sure
        pairs(gain=0.0, noise=0.005, rows=3),  # too few
        pairs(gain=0.0, noise=0.0001, loss=0.01),  # nothing left to explain
    ],
    ids=["early", "noisy", "small", "few", "settled"],
)
def test_what_cannot_be_told(seen: ImagePairsSeen) -> None:
    assert isinstance(find(seen, FLAT), CannotTell)


def test_a_loss_that_still_falls_is_given_time() -> None:
    falling = History(tuple(StepSeen(n, loss=4.0 - n / 32) for n in range(1, 65)))
    assert isinstance(find(pairs(gain=0.0, noise=0.005), falling), CannotTell)


def test_rows_without_an_image_do_not_dilute() -> None:
    seen = pairs(gain=0.5, noise=0.3)
    own = torch.cat([seen.own, torch.full((64,), 2.0)])
    assert find(ImagePairsSeen(LEARNT, own, torch.cat([seen.other, own[8:]]), changed=True), FLAT) is None


def graded(seeing: float | None, language: float = 0.1, steps: int = 40) -> History:
    """A run whose connector and language tower had these gradients."""
    parts = tuple(
        ParameterSeen(f"{tower}.weight", tower, 64, "float32", True, True, 1e-3, norm, 1.0, 1e-3, True)
        for tower, norm in (("connector", seeing), ("language", language))
    )
    return History(tuple(StepSeen(n, loss=2.0, parameters=parts) for n in range(1, steps)))


def test_outputs_that_the_loss_does_not_hang_on() -> None:
    nothing = torch.zeros(0)
    seen = ImagePairsSeen(CONNECTED, nothing, nothing, changed=True)
    verdict = find(seen, graded(0.0))
    assert isinstance(verdict, Finding) and verdict.severity == "error" and "hangs on none" in verdict.message
    gates = History((*graded(0.0).steps[:8], *graded(1e-9).steps[8:]))
    for history in (graded(1e-9), graded(None), graded(0.0, language=0.0), graded(0.0, steps=20), gates):
        assert isinstance(find(seen, history), CannotTell)
    assert isinstance(find(None, graded(0.0)), CannotTell)  # of texts alone, perhaps


def test_no_part_of_the_loss_in_a_model_that_is_never_run_again() -> None:
    """Its parts are called one by one. Blank pictures stand in for none where texts come alone."""
    pixels = Pixels(-1.0, 1.0, 0.5, 2.0)
    signals = SignalsSeen(30, 1.0, 64, 0.02, 64, pixels)
    verdict = find(None, graded(0.0), signals=signals)
    assert isinstance(verdict, Finding) and "hangs on none" in verdict.message
    blank = replace(signals, pixels=replace(pixels, range=0.0))
    assert isinstance(find(None, graded(0.0), signals=blank), CannotTell)
    assert isinstance(find(None, graded(1e-9), signals=signals), CannotTell)
