"""I5 on bare evidence: separate shuffles, label noise, and inputs that never come back."""

from __future__ import annotations

import random

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find
from sightline.guard.evidence import Fed, FeedSeen


def epochs(count: int, rows: int, wrong: float, classes: int = 4, *, fresh: bool = False) -> FeedSeen:
    """`wrong`: the share of labels that are drawn anew in each epoch."""
    draw, batches = random.Random(3), []
    for epoch in range(count):
        for start in range(0, rows, 8):
            ids = range(start, start + 8)
            labels = tuple(draw.randrange(classes) if draw.random() < wrong else i % classes for i in ids)
            batches.append(Fed(len(batches), tuple(i + 1000 * epoch * fresh for i in ids), labels))
    return FeedSeen(len(batches), tuple(batches))


def test_labels_that_are_drawn_anew_each_epoch() -> None:
    found = find(epochs(2, 64, wrong=1.0))
    assert isinstance(found, Finding) and found.seen["came back"] == 64


def test_two_classes_are_enough() -> None:
    assert isinstance(find(epochs(3, 64, wrong=1.0, classes=2)), Finding)


def test_true_pairs_and_a_little_noise_are_silent() -> None:
    assert find(epochs(3, 64, wrong=0.0)) is None
    assert find(epochs(5, 256, wrong=0.1)) is None


def test_augmented_inputs_never_come_back() -> None:
    assert isinstance(find(epochs(3, 64, wrong=1.0, fresh=True)), CannotTell)


def test_too_few_came_back_or_no_class_is_known() -> None:
    assert isinstance(find(epochs(2, 8, wrong=1.0)), CannotTell)
    nameless = FeedSeen(8, tuple(Fed(step, (1, 2, 3, 4)) for step in range(8)))
    assert isinstance(find(nameless), CannotTell)


def test_duplicates_inside_one_batch_are_no_comparison() -> None:
    batch = Fed(0, (1,) * 32, tuple(range(32)))
    assert isinstance(find(FeedSeen(1, (batch,))), CannotTell)
