"""I5 where a model gives its rows in another order: is each taught its own label, or that of the row in its place?"""

from __future__ import annotations

import random

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find
from sightline.guard.evidence import Fed, FeedSeen, OrdersSeen

ROWS = 16


def fed(epochs: int = 3, *, knows: bool = False, shuffled: bool = True, noise: float = 0.0) -> FeedSeen:
    """Classes by the places of inputs that a model sorts by length. `knows`: the loss takes labels in that order."""
    draw, batches = random.Random(0), []
    for _ in range(epochs):
        samples = draw.sample(range(96), 96) if shuffled else list(range(96))
        for start in range(0, 96, ROWS):
            rows = samples[start : start + ROWS]
            taught = sorted(rows, key=lambda i: i * 37 % 97) if knows else rows
            classes = tuple(draw.randrange(3) if draw.random() < noise else i % 3 for i in taught)
            batches.append(Fed(len(batches), tuple(rows), classes))
    return FeedSeen(len(batches), tuple(batches))


def orders(*, told: bool = False) -> OrdersSeen:
    return OrdersSeen(3, tuple(reversed(range(ROWS))), tuple(range(ROWS)), "labels", told)


def test_labels_in_the_order_of_the_inputs() -> None:
    for feed in (fed(), fed(noise=0.05)):
        found = find(feed, orders=orders())
        assert isinstance(found, Finding) and "place of sample 0, whose label" in found.message


SOUND = {
    "the loss knows": (fed(knows=True), orders()),
    "the model tells": (fed(), orders(told=True)),
    "batches that are always the same": (fed(shuffled=False), orders()),
    "and whose order the loss knows": (fed(knows=True, shuffled=False), orders()),
    "one epoch": (fed(epochs=1), orders()),
    "few rows": (fed(), OrdersSeen(3, (1, 0, *range(2, ROWS)), tuple(range(ROWS)), "labels")),
}


@pytest.mark.parametrize("name", SOUND)
def test_what_leaves_it_open(name: str) -> None:
    feed, seen = SOUND[name]
    assert isinstance(find(feed, orders=seen), CannotTell)


def test_rows_as_they_came() -> None:
    same = OrdersSeen(3, tuple(range(ROWS)), tuple(range(ROWS)), "labels")
    assert find(fed(), orders=same) is None or isinstance(find(fed(), orders=same), CannotTell)
    assert isinstance(find(fed(knows=True)), Finding)
