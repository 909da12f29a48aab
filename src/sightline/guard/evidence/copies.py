"""Whether rows that two sets share were copied or cut from one piece, and are not alike by chance."""

from __future__ import annotations

from math import log, sqrt
from typing import TYPE_CHECKING

from sightline.guard.evidence.strays import Stray

if TYPE_CHECKING:
    from sightline.guard.evidence.rows import (
        HeldRowsSeen,
        NearRowsSeen,
        RedrawnSeen,
        RepeatsSeen,
        SharedPicturesSeen,
        SharedRowsSeen,
        SharedSpansSeen,
        ViewsSeen,
    )

DISTINCT, KEYS = 64, 2  # rows, and of four parts of a row those that tell all of these apart
NEW = 0.1  # share of new rows at least, but of rows that no rule lists: then some were copied, and others not
ALIKE, NOISE, TWINS = 1.3, 2.5, 4  # times: training repeats as often as it shares; so does the test, in a few pairs
EVEN, ROWS, FEW = 1.4, 8, 40  # times as many as a random split puts into the test; rows there; fewer vary as much,
FAR = 4.0  # up to so many standard deviations
VAST = 20.0  # times as many different rows as there are: those that are there once come from no small set
WINDOWS, FOLLOWED = 16, 0.5  # evaluated windows, and of them those behind which training goes on
SAME, PARTED = 0.05, 0.05  # of the evaluated rows were trained on; of the spans that came again, went on otherwise
AGAIN = 0.5  # of the training rows come again to the last byte, in two epochs of a fixed set of windows
FREE = 0.2  # of the pairs of tokens that come again go on otherwise: rows that follow a rule overlap without a stream
FEWER, EXPECTED = 4.0, 8.0  # times fewer rows trained on than draws would give, of so many
ABROAD, OWN = 16.0, 0.1  # rows; of a training score, a rank had trained on as many itself as each of the others
GROUPS, LARGEST = 16, 8  # groups of one size, of at most so many rows: near copies of a row are few
LONGEST = 64  # the same of equal rows
SURE, UNSEEN = 3.0, 3  # standard deviations of a count; groups that may have been missed (95 %)
CLEAR = 4.0  # times what draws would give at most
STILL = 0.05  # of a class's rows were there before: it was not repeated
CHANCE = 2.0  # times the most that chance gives, with the bound below
BOUND = 3.0  # twins that may have been missed: with none in n pairs, the rate is below 3 / n (95 %)
FEWEST, ALL, WHOLE = 3, 0.9, 0.95  # samples; of those taught; of a data set
FOLDS = 0.4  # of what is taught now was taught before: half of it, with three folds
NEAR, SHARE = 8, 0.01  # nearly equal rows: more than of equal ones, for one picture may be drawn like another
APART = 0.5  # of the near rows: in batches with rows of neither kind, so that they are no training score on its own
PART = 0.67  # of the rows trained on: evaluation of so few is a part of them, of more a training score
KNOWN, UNKNOWN, DRAWN = 0.7, 0.35, 4  # times what training batches have in common with those before; batches
FRESH = 0.2  # of the batches of windows that were trained on: of new text, so that those are a training score
TEXT = 0.05  # of the spans that come again go on otherwise: of natural text one in a hundred, of few sentences many
SOURCES, OF_CLASS = 32, 4  # pictures that have views, in all and for each class: else kinds of drawings may have them
SEVERAL = 3.0  # rows of a group, on average: of draws with fewer, those that are never drawn make the others even
UNSURE, TRAINED = 0.1, 0.05  # of the pairs of views are hard to tell; of the pictures were trained on themselves
TEXTS, MOST = 16, 0.8  # pictures on one side, and on both; of them with as many rows as the rule says
CROWD, MANY = 32, 4.0  # pictures of either kind, and rows of each on average, of which some may have been missed:
SPREAD, LACK, FITS = 0.5, 0.3, 0.95  # their variance, of what draws give; lacking, of what is judged; with no more


def judged_by_training(held: HeldRowsSeen) -> Stray | None:
    """Whether all of the training set is judged, again and again, and a loader of others was made and never read."""
    whole = held.shared == held.evaluated >= ALL * held.trained
    if not whole or held.rounds < 2 or held.spare < FEWEST:
        return None
    what = (
        f"all {held.evaluated} evaluated samples are those trained on, and a loader of {held.spare} others is not read"
    )
    return Stray(what, "evaluate on that loader", seen={"trained": held.trained, "held out": held.spare})


def drawn_from_training(seen: SharedSpansSeen) -> int:
    """How many evaluated batches are windows of a small part of a text from which training draws as often as not."""
    known, new = sum(rate >= KNOWN for rate in seen.rates), sum(rate <= UNKNOWN for rate in seen.rates)
    several = known >= DRAWN and new < FRESH * known
    return known if several and seen.distinct <= PART * seen.trained and seen.parted <= TEXT else 0


def redrawn(seen: RedrawnSeen) -> bool:
    """Whether the part that is judged was held out, and yet some of it was taught before, or is.

    Held out: what is taught now has none of it, or both make up the whole. Some: a part that was taught as a whole may
    be judged to say how well it is known, unless both are folds, of which each was taught with others before; and what
    has all that was taught in it is the data set, which is looked at. Of data that are shown in two ways, two parts
    that add up to the whole are those of a split, which was drawn for each by itself.
    """
    new, whole = seen.judged - seen.shared, seen.judged + seen.now - seen.both >= WHOLE * seen.size
    if seen.shared < max(FEWEST, SHARE * seen.judged) or seen.shared >= ALL * seen.taught:
        return False
    if new < max(FEWEST, SHARE * seen.judged):
        return not seen.both and whole and seen.again >= FOLDS * seen.now
    return whole or not seen.both or (seen.shown_twice and seen.judged + seen.now == seen.size)


def nearly_copied(rows: SharedRowsSeen) -> bool:
    """More near rows than the data's own pairs give, among others, or all of a part of what was trained on."""
    if (near := rows.near) is None or near.near < max(NEAR, SHARE * near.evaluated):
        return False
    chance = near.evaluated * near.trained * (near.twins + BOUND) / max(1, near.pairs)
    a_part = rows.complete and rows.evaluated <= PART * rows.trained
    return (near.near > CHANCE * chance or grouped(near)) and (near.mixed >= APART * near.near or a_part)


def grouped(near: NearRowsSeen) -> bool:
    """Whether near rows come in groups of one size, more than there are classes: so many copies were made of each.

    Rows drawn from any set of kinds come in groups whose sizes are a mixture of Poisson distributions: with N_k groups
    of k rows, k! N_k are moments of it, and the square of one is no more than the product of its neighbours.
    """
    several = sum(near.sizes[1:])
    # else the groups may be the classes, with so many rows of each
    return several > 2 * near.classes and bool(_fixed(near.sizes, LARGEST))


def made_of_one(rows: SharedRowsSeen) -> ViewsSeen | None:
    """Rows of which so many were made of each, and then put on the two sides as a random split puts them there.

    In a set of kinds of which rows are drawn, or of drawings that are all a little alike, groups have other sizes; of
    rows that lie far from all others, it is enough that their sizes are far more even than draws.
    """
    views, clumps = rows.views, rows.clumps
    if views is not None and _of_one_source(rows, views) and bool(_fixed(views.groups.sizes, LARGEST)):
        return views
    if clumps is None or not _of_one_source(rows, clumps):
        return None
    count, mean, spread = _counts(clumps.groups.sizes)
    even = count >= CROWD and mean >= SEVERAL and spread <= SPREAD * mean
    return clumps if even or bool(_fixed(clumps.groups.sizes, LARGEST)) else None


def _of_one_source(rows: SharedRowsSeen, seen: ViewsSeen) -> bool:
    """Where training rows are evaluated, too, those that are missed must be few beside those that are new."""
    several = sum(seen.groups.sizes[1:])
    if several < max(SOURCES, OF_CLASS * seen.classes) or seen.doubtful > UNSURE * seen.alike:
        return False
    new = seen.known <= TRAINED * seen.evaluated or (rows.settled and seen.near >= UNSURE * rows.trained)
    return new and _exchanged(seen.groups)


def split_by_text(rows: SharedRowsSeen) -> bool:
    """Whether each picture has so many texts, and training has fewer of those pictures that are evaluated with others.

    What is evaluated was taken out of training, then. A training score has other texts of pictures that training has
    all the texts of; pictures of a small set, drawn for every text anew, have any number.
    """
    seen = rows.pictures
    if seen is None or not (rows.complete or rows.shared <= SAME * rows.evaluated):
        return False  # of a training score, what was not hashed looks like rows taken out
    alone, both = seen.alone, seen.both
    several = max(range(len(alone)), key=lambda place: alone[place], default=0) + 1
    if not 2 <= several <= LARGEST or min(sum(alone), sum(both)) < TEXTS:
        return _taken_out(seen)
    fits = alone[several - 1] >= MOST * sum(alone) and sum(both[:several]) >= MOST * sum(both)
    return fits or _taken_out(seen)


def _taken_out(seen: SharedPicturesSeen) -> bool:
    """The same of pictures with many texts, of which not all were seen: their numbers are far more even than draws.

    Training lacks what is evaluated, and as many pictures have no such row as where rows were drawn one by one. Parts
    of pictures tell them apart: they are no drawings of a small world, of which there may be no others.
    """
    (few, mean, spread), (shared, left, wide) = _counts(seen.alone), _counts(seen.left)
    if min(few, shared) < CROWD or seen.keys < KEYS or mean < MANY:
        return False
    _, both, uneven = _counts(seen.both)
    if spread > SPREAD * mean or uneven > SPREAD * both:
        return False
    most, lacking, pictures = len(seen.alone), mean - left, few + shared
    if lacking < max(LACK * seen.shared / shared, SURE * sqrt(spread / few + wide / shared)):
        return False
    none = pictures * (1 - seen.shared / (most * pictures)) ** most
    return sum(seen.both[:most]) >= FITS * shared and abs(few - none) <= FAR * sqrt(none)


def _counts(sizes: tuple[int, ...]) -> tuple[int, float, float]:
    """How many pictures; how many rows each has, and the variance of that."""
    count = sum(sizes)
    if not count:
        return 0, 0.0, 0.0
    mean = sum(size * times for size, times in enumerate(sizes, 1)) / count
    return count, mean, sum(times * (size - mean) ** 2 for size, times in enumerate(sizes, 1)) / count


def _fixed(sizes: tuple[int, ...], largest: int) -> int:
    """The size of which there are more groups than draws from any set of kinds would give; 0 for none."""
    of = (0, *sizes, *(0 for _ in range(largest)))
    for k in range(2, largest + 1):
        least, beside = of[k] - SURE * sqrt(of[k]), _most(of[k - 1]) * _most(of[k + 1])
        if of[k] >= GROUPS and least > 0 and least**2 * k / (k + 1) > beside:
            return k
    return 0


def _most(count: int) -> float:
    """What may well be expected where so many came."""
    return count + SURE * sqrt(count + 1) + UNSEEN


def by_chance(rows: SharedRowsSeen) -> float:
    """How many evaluated rows were trained on if all are drawn from one set, as far as rows repeat in it.

    Rows of few different parts may be drawn from a small set; others come again because they were stored.
    """
    rate = (rows.twins + BOUND) / rows.pairs if rows.pairs else 0.0
    if not _rich(rows) and rows.drawn[0]:
        rate = max(rate, rows.drawn[1] / rows.drawn[0])  # in batches without repetitions, too
    return rows.evaluated * rows.trained * rate


def _rich(rows: SharedRowsSeen) -> bool:
    """Whether half a row tells which one it is."""
    return rows.parts >= DISTINCT and rows.keys >= KEYS


def copied(rows: SharedRowsSeen) -> bool:
    """Whether rows are equal because they were copied before the split, though they repeat within training too.

    Of rows drawn from any set, however seldom some of them, the counts are a mixture of Poisson distributions. So they
    were copied where many are there equally often; or where most rows are from a set that is far larger than the data,
    or repetitions make classes even that are not, and the rows are not alike by their poverty: half a row tells which
    one it is. And rows of each count are on both sides as a random split puts them there: not repeated behind it, and
    no training rows that are evaluated.
    """
    seen = rows.repeats
    if seen is None or not _exchanged(seen) or (1 - rows.shared / rows.evaluated < NEW and not _rich(rows)):
        return False
    if size := _fixed(seen.sizes, min(LONGEST, len(seen.sizes))):
        return _rows(seen, range(size, size + 1)) >= ROWS
    if not _rich(rows):
        return False
    once, twice, more = seen.sizes[0], sum(seen.sizes[1:2]), sum(seen.sizes[2:])
    vast = once**2 / (2 * (twice + UNSEEN)) >= VAST * (seen.drawn + seen.judged)  # Chao (1984): the least unseen
    chance = 2 * twice**2 / (3 * max(1, once))  # three times there, were all rows drawn alike
    often = more >= max(GROUPS, CLEAR * (chance + UNSEEN)) and _rows(seen, range(3, len(seen.sizes) + 1)) >= ROWS
    return (often and vast) or (_levelled(rows.classes) and _rows(seen, range(2, len(seen.sizes) + 1)) >= ROWS)


def _levelled(classes: tuple[tuple[int, int], ...]) -> bool:
    """Whether classes have equally many rows, though of different rows far from it: the largest repeats none of its."""
    if len(classes) < 2 or min(every for every, _ in classes) < FEW:
        return False
    largest, different = max(classes, key=lambda one: one[1])
    every, distinct = (_uneven([one[place] for one in classes]) for place in (0, 1))
    bound = len(classes) - 1 + SURE * sqrt(2 * (len(classes) - 1))
    return largest - different <= STILL * largest and every <= bound and distinct > CLEAR * bound


def _uneven(counts: list[int]) -> float:
    """How far counts are from even, in squares of what draws give: one less than there are, on average."""
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 for count in counts) / mean


def _exchanged(seen: RepeatsSeen) -> bool:
    """Whether rows repeat within training, within the test and between them as those of a random split."""
    drawn, judged = (n * (n - 1) / 2 for n in (seen.drawn, seen.judged))
    if not drawn or not judged or not seen.twins or seen.judged_twins < TWINS:
        return False
    between = seen.twins / (seen.drawn * seen.judged)
    alike = 1 / ALIKE <= seen.drawn_twins / drawn / between <= ALIKE
    spans = [range(size, size + 1) for size in range(1, len(seen.sizes) + 1)]
    even = all(_even(seen, span) for span in (*spans, range(3, len(seen.sizes) + 1)))
    return alike and even and 1 / NOISE <= seen.judged_twins / judged / between <= NOISE


def _rows(seen: RepeatsSeen, sizes: range) -> float:
    """How many rows of those that are there so often a random split puts into the test."""
    every = sum(size * seen.sizes[size - 1] for size in sizes)
    return every * seen.judged / (seen.drawn + seen.judged)


def _even(seen: RepeatsSeen, sizes: range) -> bool:
    """Whether about as many are there."""
    expected, there = _rows(seen, sizes), sum(seen.judged_of[size - 1] for size in sizes)
    if expected < FEW:
        return abs(there - expected) <= FAR * sqrt(expected + 1)
    return 1 / EVEN <= there / expected <= EVEN


def held_out_on_one_rank(rows: SharedRowsSeen) -> bool:
    """Whether ranks evaluate what others trained on, and they themselves did not: each has made a split of its own."""
    return rows.abroad is not None and rows.abroad >= ABROAD and rows.own <= OWN * rows.abroad


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
