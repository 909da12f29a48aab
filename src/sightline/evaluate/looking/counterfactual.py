"""Pairs of rows that ask the same of two images and whose answers differ: who does not look cannot get both right.

As VQAv2 was balanced (Goyal et al. 2017, arXiv 1612.00837): each question with two images and two answers. Here the
pairs are found in the rows by themselves.
"""

from __future__ import annotations

import heapq
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sightline.data.row import Row
from sightline.evaluate.marks import Mark, accuracy, mean
from sightline.evaluate.score import normalise

MOST_SHARED = 0.5  # an answer that earns more than this on both images does not tell them apart

Pair = tuple[int, int]


def find_pairs(rows: Sequence[Row], mark: Mark, seed: int) -> list[Pair]:
    """Places of two rows each: same question text, other images, and neither's answer right for the other.

    Every row is in at most one pair. The answers that a question gets most often are paired first, which leaves the
    fewest rows over; which rows meet is drawn by `seed`.
    """
    asked: dict[tuple[str, ...], dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, row in enumerate(rows):
        if row.images:
            asked[_said(row)][normalise(row.answer)].append(place)
    draw, pairs = random.Random(seed), list[Pair]()
    for by_answer in asked.values():
        if len(by_answer) > 1:
            pairs += _matched(rows, by_answer, mark, draw)
    return pairs


def told(pairs: Sequence[Pair], marks: Sequence[float], answers: Sequence[str]) -> dict[str, Any]:
    """What `marks` and `answers` say of `pairs`. A pair counts by the lesser of its two marks.

    `if_independent`: the square of their mean mark, of a model that is right as often, but on each image by itself.
    `same_answer`: pairs whose two images got one answer, of which at most one can be right. Who never looks has 100 %
    there and 0 % both right.
    """
    if not pairs:
        return {"pairs": 0, "description": "no question is asked of two images that need different answers"}
    lesser = [min(marks[first], marks[second]) for first, second in pairs]
    each = mean([marks[place] for pair in pairs for place in pair])
    same = sum(normalise(answers[first]) == normalise(answers[second]) for first, second in pairs)
    shares = accuracy(lesser)
    return {
        "pairs": len(pairs),
        "both_right": shares["accuracy"],
        "interval": shares["interval"],
        "if_independent": each**2,
        "same_answer": same / len(pairs),
        "description": "the same question about two images that need different answers, both answered right",
    }


def _said(row: Row) -> tuple[str, ...]:
    """All that was said up to the last answer."""
    turns = row.turns[:-1] if row.answered else row.turns
    return tuple(f"{turn.role}: {normalise(turn.text)}" for turn in turns)


def _matched(rows: Sequence[Row], by_answer: dict[str, list[int]], mark: Mark, draw: random.Random) -> list[Pair]:
    left = []
    for order, places in enumerate(by_answer.values()):
        draw.shuffle(places)
        left.append((-len(places), order, places))
    heapq.heapify(left)
    pairs: list[Pair] = []
    while len(left) > 1:
        most, next_most = heapq.heappop(left), heapq.heappop(left)
        first, second = most[2].pop(), next_most[2].pop()
        if _apart(rows[first], rows[second], mark):
            pairs.append((min(first, second), max(first, second)))
        else:
            most[2].append(first)  # one of the two is left out, so that this ends
        for _, order, places in (most, next_most):
            if places:
                heapq.heappush(left, (-len(places), order, places))
    return pairs


def _apart(one: Row, other: Row, mark: Mark) -> bool:
    if {image.key for image in one.images} == {image.key for image in other.images}:
        return False
    return mark(one.answer, other) < MOST_SHARED and mark(other.answer, one) < MOST_SHARED
