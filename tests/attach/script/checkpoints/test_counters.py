"""Which numbers of a script count on from a number that it read, wherever it keeps them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from sightline.attach.script.checkpoints.counters import Counters

READ, TAKEN, PER_EPOCH = frozenset({4, 40}), frozenset({40}), 10


def begun(first: int, rise: Callable[[int], int], steps: int = 25) -> str:
    """What is said of a count that begins at `first` and rises by `rise(step)` with each step."""
    kept = SimpleNamespace(count=first)
    held = {"same": 7}  # what stays as it is counts nothing
    counters, said = Counters(READ, TAKEN), ""
    for step in range(1, steps):
        kept.count += rise(step)
        said = said or counters.stepped()
    return said if held else ""


@pytest.mark.parametrize(
    ("first", "rise"),
    [
        (40, lambda step: 1),
        (41, lambda step: 4),  # in micro-batches
        (4, lambda step: step % PER_EPOCH == 0),  # four epochs of ten steps were taken
        (5, lambda step: step % 3 == 0),
    ],
)
def test_counts_on(first: int, rise: Callable[[int], int]) -> None:
    assert begun(first, rise) == f"'count' counts on from {first}"


@pytest.mark.parametrize(
    ("first", "rise"),
    [
        (0, lambda step: 1),
        (1, lambda step: 1),
        (40, lambda step: 40),  # samples, of which the first batch brought as many as were read by chance
        (4, lambda step: step % 3),  # hits
        (4, lambda step: step == 5),
        (4, lambda step: 0),
        (40, lambda step: 1 if step < 7 else -1),
        (39, lambda step: 1),
    ],
)
def test_another_number(first: int, rise: Callable[[int], int]) -> None:
    assert not begun(first, rise)
