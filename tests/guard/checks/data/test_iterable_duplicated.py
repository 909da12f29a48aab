"""I2 on bare evidence: samples once per worker, in turn."""

from __future__ import annotations

import random

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.iterable_duplicated import find
from sightline.guard.evidence import Fed, FeedSeen, LoaderSeen

STREAM = LoaderSeen(0, 0, iterable=True, workers=2)


def feed(*rows: tuple[int, ...], loader: LoaderSeen | None = STREAM) -> FeedSeen:
    """One batch a step."""
    return FeedSeen(len(rows), tuple(Fed(step, row) for step, row in enumerate(rows)), loader)


DOUBLE = [row for n in range(4) for row in [tuple(range(4 * n, 4 * n + 4))] * 2]
ONCE = [tuple(range(4 * n, 4 * n + 4)) for n in range(8)]


def test_each_batch_twice_in_a_row_from_two_workers() -> None:
    assert isinstance(find(feed(*DOUBLE)), Finding)


def test_each_sample_once_is_silent() -> None:
    assert find(feed(*ONCE)) is None


def buffered(split: bool, epoch: int | None = 0) -> FeedSeen:
    """Two workers, each with its own order, behind a shuffle buffer; batches of four."""
    draw = random.Random(0)
    parts = [list(range(0, 96, 2)), list(range(1, 96, 2))] if split else [list(range(96)), list(range(96))]
    for part in parts:
        draw.shuffle(part)
    turns = [tuple(part[place : place + 4]) for place in range(0, len(parts[0]), 4) for part in parts]
    return FeedSeen(len(turns), tuple(Fed(n, rows, epoch=epoch) for n, rows in enumerate(turns)), STREAM)


def test_each_sample_once_from_each_worker_some_time_apart() -> None:
    assert isinstance(find(buffered(split=False)), Finding)
    assert find(buffered(split=True)) is None
    assert find(buffered(split=False, epoch=None)) is None  # two epochs in one, for all that is known


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        (range(20), True),  # whoever gives all of an epoch has given the same share of it twice
        (range(0, 48, 2), False),  # batches of one worker alone
        (range(8), False),  # too few to tell
    ],
)
def test_a_part_of_an_epoch_is_looked_at(shown: range, found: bool) -> None:
    def part(split: bool, share: float = 1.0) -> FeedSeen:
        draw, given = random.Random(2), []
        for worker in range(2):
            rows = [row for row in range(192) if not split or row % 2 == worker]
            draw.shuffle(rows)
            given.append(rows[: round(share * len(rows))])
        turns = [one[at : at + 8] for at in range(0, len(given[0]), 8) for one in given]
        fed = tuple(Fed(n, tuple(turns[n]), epoch=3, place=n) for n in shown if n < len(turns))
        return FeedSeen(len(turns), fed, STREAM, {3: len(turns)})

    assert isinstance(find(part(split=False)), Finding) == found
    assert find(part(split=True)) is None
    assert find(part(split=False, share=0.5)) is None  # half of all, drawn by each worker for itself


def test_shards_that_workers_draw_at_random_are_silent() -> None:
    draw = random.Random(1)
    rows = [tuple(draw.randrange(96) for _ in range(4)) for _ in range(48)]
    assert find(FeedSeen(48, tuple(Fed(n, row, epoch=0) for n, row in enumerate(rows)), STREAM)) is None


def test_a_few_duplicates_in_the_data_are_silent() -> None:
    assert find(feed(*ONCE[:6], (24, 25, 0, 1), (24, 25, 2, 3))) is None


def test_a_map_style_set_or_one_worker_may_repeat_batches() -> None:
    assert find(feed(*DOUBLE, loader=LoaderSeen(0, 0, iterable=False, workers=2))) is None
    assert find(feed(*DOUBLE, loader=LoaderSeen(0, 0, iterable=True, workers=1))) is None


def test_too_little_or_no_loader_cannot_be_told() -> None:
    assert isinstance(find(feed((1, 2), (1, 2))), CannotTell)
    assert isinstance(find(feed(*DOUBLE, loader=None)), CannotTell)


def test_a_tiny_set_that_is_read_over_and_over_is_silent() -> None:
    again = [tuple(range(8))] * 40
    assert find(feed(*again)) is None
