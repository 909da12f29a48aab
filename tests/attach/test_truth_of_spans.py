"""Metrics of answers that are spans of a text, and metrics that are objects: what they say of the truth."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from torch import nn
from transformers import EvalPrediction

from sightline.attach.records import keeps_records
from sightline.attach.truth import truths
from sightline.guard.check import Finding
from sightline.guard.checks.evaluation.metric_fails_oracle import find

RNG = np.random.default_rng(0)
STARTS = RNG.integers(0, 20, 48)
ENDS = STARTS + RNG.integers(0, 5, 48)


class Spans:
    """Exact matches of the best span. `first`: how far behind its start the end may be at least, `longest` at most."""

    def __init__(self, first: int = 0, longest: int = 8) -> None:
        self.first, self.longest = first, longest

    def best(self, start: Any, end: Any) -> tuple[int, int]:
        every = [
            (float(start[s] + end[e]), s, e)
            for s in range(len(start))
            for e in range(s + self.first, min(s + self.longest, len(end)))
        ]
        return max(every)[1:]

    def __call__(self, p: Any) -> dict[str, float]:
        told = [self.best(*one) for one in zip(*p.predictions, strict=True)]
        true = zip(*p.label_ids, strict=True)
        return {"exact": float(np.mean([one == two for one, two in zip(told, true, strict=True)]))}


class Counts(Spans):
    """Keeps what it was asked before."""

    asked = 0

    def best(self, start: Any, end: Any) -> tuple[int, int]:
        self.asked += 1
        return super().best(start, end)


class Meter:
    """A metric of a library, with a state of its own."""

    def reset(self) -> None: ...

    def update(self, p: Any) -> None: ...


class Holds:
    def __init__(self) -> None:
        self.meter = Meter()

    def __call__(self, p: Any) -> dict[str, float]:
        self.meter.update(p)
        return {}


def found(metric: Any, ends: Any = ENDS) -> list[str]:
    scores = tuple(RNG.normal(size=(48, 32)).astype("float32") for _ in range(2))
    given = EvalPrediction(predictions=scores, label_ids=(STARTS, ends))
    return [seen.name for seen in truths(metric, given, nn.Linear(1, 1), 3) if isinstance(find(seen), Finding)]


def test_answers_of_one_token_that_cannot_be_said() -> None:
    assert found(Spans(first=1)) == ["exact"]
    assert found(Spans()) == []


def test_answers_that_are_too_long_for_a_limit_are_left_out() -> None:
    assert found(Spans(longest=4)) == []


def test_an_end_before_its_start_is_no_span() -> None:
    assert found(Spans(first=1), STARTS - 1) == []


@pytest.mark.parametrize("metric", [Spans(), Spans().__call__, partial(Spans.__call__, Spans())])
def test_objects_that_remember_nothing(metric: Any) -> None:
    assert not keeps_records(metric)


@pytest.mark.parametrize("metric", [Counts(), partial(Counts()), Holds(), partial(lambda had, p: had.append(p), [{}])])
def test_objects_that_remember(metric: Any) -> None:
    assert keeps_records(metric)
