from __future__ import annotations

import math
import random

import numpy as np
import pytest

from sightline.report.axes import doubling_axis, linear_axis, log_axis
from sightline.report.format import tick
from sightline.report.series import Line, line, smooth, thin, towers_in
from sightline.report.values import TrainPoint


def drawn(values: list[float | None]) -> Line:
    return Line(list(range(len(values))), values, sum(value is not None for value in values))


def point(step: int, loss: float | None, stage: str = "see") -> TrainPoint:
    return TrainPoint(stage, step, None, loss, None, {}, {}, None, {}, None, None, None)


def test_a_line_breaks_where_a_stage_begins_and_where_a_value_is_missing_or_infinite():
    points = [point(1, 1.0), point(2, math.inf), point(3, 2.0), point(4, 3.0, "align"), point(5, None, "align")]
    made = line(points, lambda p: p.loss)
    assert made.x == [1, 2, 3, 4, 4, 5]
    assert made.y == [1.0, None, 2.0, None, 3.0, None]
    assert made.logged == 3


def test_thinning_keeps_every_spike_both_ways_and_stays_within_the_limit():
    draw = random.Random(0)
    values: list[float | None] = [draw.gauss(1, 0.1) for _ in range(20_000)]
    values[777], values[13_001], values[15_000] = 50.0, -50.0, None
    made = thin(drawn(values), 2000)
    assert len(made.x) <= 2001  # the break is one more
    assert made.x == sorted(made.x)
    assert {50.0, -50.0, None} <= set(made.y)
    assert all(values[int(x)] == y for x, y in zip(made.x, made.y, strict=True))
    assert made.logged == 19_999


def test_a_short_line_is_not_thinned():
    short = drawn([1.0, 2.0])
    assert thin(short, 2000) is short


def reference(values: np.ndarray, weights: np.ndarray, keep: float) -> np.ndarray:
    """The same mean, written as the full matrix of weights."""
    places = np.arange(len(values))
    kernel = keep ** np.abs(places[:, None] - places[None, :]) * weights
    return kernel @ values / kernel.sum(1)


@pytest.mark.parametrize("geometric", [False, True])
def test_the_smoothed_line_is_the_weighted_mean_around_each_point(geometric):
    draw = np.random.default_rng(0)
    values, weights = draw.uniform(0.1, 5, 400), draw.uniform(1, 900, 400)
    made = smooth(drawn(values.tolist()), weights.tolist(), geometric=geometric)
    keep = 1 - 1 / 4  # 1 % of 400 points
    expected = np.exp(reference(np.log(values), weights, keep)) if geometric else reference(values, weights, keep)
    np.testing.assert_allclose(made.y, expected, rtol=1e-9)


def test_smoothing_does_not_lag_on_a_straight_line_nor_look_over_a_break():
    straight = smooth(drawn([float(i) for i in range(1000)])).y
    assert max(abs(straight[i] - i) for i in range(200, 800)) < 1e-3
    broken = smooth(drawn([1.0] * 50 + [None] + [9.0] * 50)).y
    assert broken == pytest.approx([1.0] * 50 + [None] + [9.0] * 50)


def test_towers_come_in_the_order_of_the_signal():
    assert towers_in([{"language": 1, "texture": 1}, {"vision": 1}]) == ["vision", "language", "texture"]


def test_axes_hold_their_values_and_have_a_few_round_ticks():
    log = log_axis([2e-5, 2e-3], tick, within=(1e-4, 1e-2))
    assert log["range"][0] < math.log10(2e-5) and log["range"][1] > -2
    assert log["ticktext"] == ["1e-4", "0.001", "0.01"]
    linear = linear_axis([3.0, 212.0], tick)
    assert linear["ticktext"] == ["0", "100", "200"] and linear["range"][1] > 212
    double = doubling_axis([65536.0, 16384.0], tick)
    assert double["tickvals"] == [16384, 32768, 65536]


@pytest.mark.parametrize("values", [[0.0], [1.0], [1e-9], [7.0, 7.0]])
def test_axes_of_one_value_are_drawable(values):
    axis = linear_axis(values, tick)
    assert axis["range"][0] < axis["range"][1] and len(axis["tickvals"]) >= 1
    assert log_axis(values, tick)["range"][0] < log_axis(values, tick)["range"][1]


def test_a_span_of_many_decades_has_no_more_ticks_than_can_be_read():
    assert 3 <= len(log_axis([1e-30, 1e30], tick)["tickvals"]) <= 10
