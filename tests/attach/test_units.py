"""Metrics of numbers that bring predictions or labels into another unit: of both, and of one side alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import EvalPrediction

from sightline.attach.truth import truths
from sightline.attach.units import speaks
from sightline.guard.check import Finding
from sightline.guard.checks.evaluation.metric_fails_oracle import find

RNG = np.random.default_rng(0)
Unit = Callable[[Any], Any]
RAW = RNG.gamma(4, 50, 300).astype("float32")
MEAN, STD = RAW.mean(), RAW.std()
EVEN = (RAW - MEAN) / STD
LOGS = np.log1p(RAW)


def learnt(labels: Any, known: float = 0.9) -> Any:
    """Predictions of a model that knows so much of them."""
    rest = RNG.normal(size=labels.shape) * labels.std()
    said = labels.mean() + known**2 * (labels - labels.mean()) + known * (1 - known**2) ** 0.5 * rest
    return said.astype("float32")


def same(values: Any) -> Any:
    return values


def back(values: Any) -> Any:
    return values * STD + MEAN


def errors(of_predictions: Unit, of_labels: Unit = same) -> Callable[[Any], dict[str, float]]:
    def compute(p: Any) -> dict[str, float]:
        said, wanted = of_predictions(np.reshape(p.predictions, p.label_ids.shape)), of_labels(p.label_ids)
        error = said - wanted
        return {
            "mae": float(np.abs(error).mean()),
            "rmse": float(np.sqrt((error**2).mean())),
            "r2": float(1 - (error**2).sum() / ((wanted - wanted.mean()) ** 2).sum()),
            "mape": float(np.abs(error / wanted).mean()),
            "pinball": float(np.maximum(-0.9 * error, 0.1 * error).mean()),
            "pearson": float(np.corrcoef(said.ravel(), wanted.ravel())[0, 1]),
            "within_10_percent": float((np.abs(error) <= 0.1 * np.abs(wanted)).mean()),
            "bias": float(error.mean()),
            "too_low": float((error < 0).mean()),
            "mean_prediction": float(said.mean()),
            "width": float(said.std() / wanted.std()),
        }

    return compute


def found(metric: Callable[[Any], dict[str, float]], labels: Any, said: Any, step: int = 3) -> set[str]:
    seen = truths(metric, EvalPrediction(predictions=said, label_ids=labels), nn.Linear(1, 1), step)
    return {one.name for one in seen if isinstance(find(one), Finding)}


ERRORS = {"mae", "rmse", "r2"}


@pytest.mark.parametrize(
    ("metric", "labels", "said"),
    [
        (errors(back), EVEN, learnt(EVEN)),
        (errors(back), EVEN, learnt(EVEN, 0.6)),
        (errors(back), EVEN, learnt(EVEN)[:, None]),
        (errors(same, back), EVEN, learnt(EVEN)),
        (errors(np.expm1), LOGS, learnt(LOGS)),
        (errors(lambda v: 1.8 * v + 32), RAW / 10, learnt(RAW / 10)),
        (errors(back), np.stack([EVEN, EVEN[::-1]], 1), learnt(np.stack([EVEN, EVEN[::-1]], 1))),
    ],
    ids=["predictions", "a poor model", "a column", "labels", "logs", "degrees", "several numbers"],
)
def test_one_side_alone(metric: Any, labels: Any, said: Any) -> None:
    assert found(metric, labels, said) - {"mape", "pinball", "within_10_percent", "width"} == ERRORS
    alone = found(lambda p: {"r2": metric(p)["r2"]}, labels, said)
    assert alone == {"r2"} and found(lambda p: {"mae": metric(p)["mae"]}, labels, said) == {"mae"}


@pytest.mark.parametrize(
    ("metric", "labels", "said"),
    [
        (errors(same), EVEN, learnt(EVEN)),
        (errors(same), RAW, learnt(RAW)),
        (errors(back, back), EVEN, learnt(EVEN)),
        (errors(np.expm1, np.expm1), LOGS, learnt(LOGS)),
        (errors(back), RAW, learnt(EVEN)),
        (errors(np.expm1), RAW, learnt(LOGS)),
        (errors(back), EVEN, RNG.normal(size=300).astype("float32")),
        (errors(back), EVEN, np.zeros(300, dtype="float32")),
        (errors(lambda v: 1.02 * v + 0.03), EVEN, learnt(EVEN)),
        (lambda p: {"mae": float(np.abs(back(p.predictions) - RAW[:256]).mean())}, EVEN, learnt(EVEN)),
        (lambda p: {"mae": float(np.abs(np.clip(p.predictions, -1, 1) - p.label_ids).mean())}, EVEN, learnt(EVEN)),
    ],
    ids=["even", "raw", "both", "logs", "raw labels", "raw logs", "bad", "zeros", "near", "own labels", "clipped"],
)
def test_both_sides_or_what_predictions_need(metric: Any, labels: Any, said: Any) -> None:
    assert not found(metric, labels, said)


def test_predictions_that_may_be_on_their_way() -> None:
    """A model that is to say more than its labels do says as little at its start."""
    assert found(errors(same, back), EVEN, learnt(EVEN), step=0) == set()
    assert found(errors(back), EVEN, learnt(EVEN), step=0) >= ERRORS


def test_the_unit_of_the_labels() -> None:
    wanted = torch.from_numpy(EVEN)
    assert speaks(torch.from_numpy(learnt(EVEN)), wanted)
    assert not speaks(wanted / 4, wanted) and not speaks(wanted + 0.5, wanted) and not speaks(-wanted, wanted)
    assert not speaks(wanted[:20], wanted[:20]) and not speaks(torch.randn(300), wanted)
    assert not speaks(wanted.sign(), wanted.sign())
