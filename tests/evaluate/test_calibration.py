from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from sightline.evaluate.calibration import calibration


def _answers(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Answers of a model that is surer than right."""
    draw = np.random.default_rng(seed)
    sure = draw.random(count)
    return sure, (draw.random(count) < sure**2).astype(float)


@pytest.mark.parametrize("bins", [1, 5, 15, 40])
def test_errors_are_those_of_torchmetrics(bins: int) -> None:
    sure, right = _answers(700)
    found = calibration(sure, right, bins=bins)
    for norm, ours in (("l1", found.ece), ("max", found.mce)):
        theirs = binary_calibration_error(torch.tensor(sure), torch.tensor(right).long(), n_bins=bins, norm=norm)
        assert ours == pytest.approx(float(theirs), abs=1e-6)
    assert len(found.bins) == bins
    assert found.interval[0] < found.ece < found.interval[1] or bins == 1


def test_by_hand() -> None:
    found = calibration([0.05, 0.95, 1.0, 0.9], [0, 1, 1, 0], bins=10)
    assert found.ece == pytest.approx((0.05 + abs(2.85 - 2)) / 4)
    assert found.mce == pytest.approx(0.85 / 3)
    assert found.brier == pytest.approx((0.05**2 * 2 + 0.9**2) / 4)
    last, second = found.bins[9], found.bins[1]
    assert (last.answers, last.accuracy, second.answers, second.accuracy) == (3, pytest.approx(2 / 3), 0, None)


def test_true_confidences_have_no_more_error_than_chance_gives() -> None:
    draw = np.random.default_rng(1)
    sure = draw.random(4000)
    found = calibration(sure, (draw.random(4000) < sure).astype(float))
    assert found.ece < 1.6 * found.expected_by_chance
    sure, right = _answers(4000)
    assert calibration(sure, right).ece > 5 * found.expected_by_chance


def test_shares_of_right_are_marks_too() -> None:
    assert calibration([0.6, 0.6], [0.3, 0.9]).ece == pytest.approx(0.0)


@pytest.mark.parametrize(("sure", "right"), [([], []), ([0.5], [1, 0]), ([1.2], [1]), ([0.5], [-1]), ([math.nan], [1])])
def test_what_is_no_probability_is_refused(sure: list[float], right: list[float]) -> None:
    with pytest.raises(ValueError, match=r"same answers|outside"):
        calibration(sure, right)
