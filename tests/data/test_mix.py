"""Mixture: laws that hold at every position."""

from __future__ import annotations

from collections import Counter

import pytest

from sightline.data.mix import Mixture
from sightline.errors import UserError

CASES = [
    ({"a": 7}, {"a": 1.0}),
    ({"a": 5, "b": 11}, {"a": 1.0, "b": 1.0}),
    ({"a": 5, "b": 11, "c": 3}, {"a": 0.7, "b": 0.2, "c": 0.1}),
    ({"a": 50, "b": 2}, {"a": 3.0, "b": 0.001}),
]


@pytest.mark.parametrize(("sizes", "weights"), CASES)
def test_drawing_in_parts_is_drawing_at_once(sizes, weights) -> None:
    """draw(a, n) + draw(a + n, m) == draw(a, n + m), also by another object and backwards."""
    whole = Mixture(sizes, weights, seed=3).draw(0, 500)
    other = Mixture(sizes, weights, seed=3)
    assert other.draw(200, 300) + other.draw(0, 200) == whole[200:] + whole[:200]
    assert [other.draw(p, 1)[0] for p in range(499, -1, -1)] == whole[::-1]


@pytest.mark.parametrize(("sizes", "weights"), CASES)
def test_each_epoch_visits_each_row_once(sizes, weights) -> None:
    drawn: dict[str, list[int]] = {name: [] for name in sizes}
    for name, row in Mixture(sizes, weights, seed=0).draw(0, 700):
        drawn[name].append(row)
    for name, rows in drawn.items():
        for start in range(0, len(rows) - sizes[name] + 1, sizes[name]):
            assert sorted(rows[start : start + sizes[name]]) == list(range(sizes[name]))


@pytest.mark.parametrize(("sizes", "weights"), CASES)
def test_weights_hold_at_every_position(sizes, weights) -> None:
    """After p draws a data set of weight w has been drawn p*w times, within one for each data set before it."""
    counts: Counter[str] = Counter()
    mixture = Mixture(sizes, weights, seed=1)
    for position, (name, _) in enumerate(mixture.draw(0, 600), start=1):
        counts[name] += 1
        for each in sizes:
            share = weights[each] / sum(weights.values())
            assert abs(counts[each] - position * share) <= len(sizes)
    assert mixture.epochs(600) == {name: counts[name] / sizes[name] for name in sizes}


def test_orders_differ_by_epoch_set_and_seed() -> None:
    """No two shuffles are alike, and the key order of the recipe changes nothing."""
    sizes, weights = {"a": 40, "b": 40}, {"a": 1.0, "b": 1.0}
    drawn = Mixture(sizes, weights, seed=0).draw(0, 160)
    orders = [[row for name, row in drawn if name == each][epoch * 40 :][:40] for each in "ab" for epoch in range(2)]
    assert len({tuple(order) for order in orders}) == 4
    assert Mixture(sizes, weights, seed=1).draw(0, 160) != drawn
    turned = Mixture(dict(reversed(sizes.items())), dict(reversed(weights.items())), seed=0)
    assert turned.draw(0, 160) == drawn


def test_faults_are_told() -> None:
    with pytest.raises(UserError, match="no data set here"):
        Mixture({"a": 1}, {"b": 1.0}, 0)
    with pytest.raises(UserError, match="data set a has no rows"):
        Mixture({"a": 0}, {"a": 1.0}, 0)
