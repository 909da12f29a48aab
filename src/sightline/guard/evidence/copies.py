"""Whether rows that two sets share were copied or cut from one piece, and are not alike by chance."""

from __future__ import annotations

from math import exp, log
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sightline.guard.evidence.learning import NearRowsSeen, SharedRowsSeen

DISTINCT, KEYS = 64, 2  # rows, and of four parts of a row those that tell all of these apart
NEW, MORE = 0.2, 2.0  # share of new rows, and times what chance leaves: copies of some rows and none of the others
WINDOWS, FOLLOWED = 16, 0.5  # evaluated windows, and of them those behind which training goes on
SAME, PARTED = 0.05, 0.05  # of the evaluated rows were trained on; of the spans that came again, went on otherwise
AGAIN = 0.5  # of the training rows come again to the last byte, in two epochs of a fixed set of windows
FREE = 0.2  # of the pairs of tokens that come again go on otherwise: rows that follow a rule overlap without a stream
FEWER, EXPECTED = 4.0, 8.0  # times fewer rows trained on than draws would give, of so many
GROUPS, LARGEST = 16, 8  # groups of one size, of at most so many rows: copies of a row are few
CLEAR, UNSEEN = 4.0, 3  # times what draws would give at most; groups that may have been missed (95 %)


def grouped(near: NearRowsSeen) -> bool:
    """Whether near rows come in groups of one size, more than there are classes: so many copies were made of each.

    Rows drawn from any set of kinds come in groups whose sizes are a mixture of Poisson distributions: with N_k groups
    of k rows, k! N_k are moments of it, and the square of one is no more than the product of its neighbours.
    """
    several = sum(near.sizes[1:])
    if several <= 2 * near.classes:  # the groups may be the classes, with so many rows of each
        return False
    of = (0, *near.sizes, *(0 for _ in range(LARGEST)))
    for k in range(2, LARGEST + 1):
        beside = (of[k - 1] + UNSEEN) * (of[k + 1] + UNSEEN)
        if of[k] >= GROUPS and of[k] ** 2 * k / (k + 1) > CLEAR * beside:
            return True
    return False


def copied(rows: SharedRowsSeen) -> bool:
    """Whether rows are equal because they were copied, though the data's own repetitions would explain as many.

    Half a row tells which one it is, so there is no small set that rows are drawn from; and more evaluated rows are new
    than there would be, were all rows of the data repeated as often as the mean.
    """
    if rows.parts < DISTINCT or rows.keys < KEYS or not rows.mixed:
        return False
    new = exp(-rows.trained * rows.twins / max(1, rows.pairs))
    return 1 - rows.shared / rows.evaluated >= max(NEW, MORE * new)


def interleaved(rows: SharedRowsSeen) -> bool:
    """Whether evaluated windows are cut from between those that were trained on: training goes on behind most.

    Both are fixed sets. Windows drawn anywhere would be trained on themselves in step with those that are near: with
    a share f of windows followed, there were -ln(1 - f) draws within reach, and each place has its part of these.
    """
    seen = rows.tails
    if seen is None or seen.judged < WINDOWS or seen.found < FOLLOWED * seen.judged or seen.parted > PARTED:
        return False
    if rows.apart or seen.free < FREE or rows.shared > SAME * rows.evaluated:
        return False
    drawn = rows.evaluated * -log(1 - min(0.99, seen.found / seen.judged)) / (seen.width - seen.length)
    return rows.again >= AGAIN or (drawn >= EXPECTED and FEWER * rows.shared <= drawn)
