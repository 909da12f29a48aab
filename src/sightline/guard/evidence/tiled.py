"""Images with several texts each, one of both repeated as a whole and the other row by row, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sightline.guard.evidence.loading import SURE, Fed, FeedSeen, RowsSeen
from sightline.guard.evidence.row_orders import OrdersSeen
from sightline.guard.evidence.strays import Stray

AGAIN = 32  # images that came back
TOLD = 0.25  # of the texts at the other places that came back with them: some may be drawn anew, or cut with a batch
MOST = 0.5  # of that: texts that an image meets again, or that other images have too (questions asked of each)
VARIED = 0.75  # of the texts of an image that are different ones: each is once beside each image where all meet all
FEW = 8  # rows that are told
Pattern = list[range]  # of each image of a batch, its rows


def tiled(feed: FeedSeen | None, rows: RowsSeen | None, orders: OrdersSeen | None) -> Stray | None:
    """Texts that come back where their image would be in the other order, and not beside the image they are given with.

    `images.repeat(k, ...)` is 0, 1, 2, 0, 1, 2, and `texts.flatten(0, 1)` of (n, k) is of images 0, 0, 1, 1, 2, 2.
    Where it shows in memory that the texts are such, they need not come back.
    """
    if rows is None or not any(own > SURE * rows.noise for own, _ in rows.alone):
        return None
    if any(most > SURE * rows.noise for most in rows.beside):  # a model that puts them in one order, or compares all
        return None
    vectors = len(rows.output) == 2 and rows.output[1] > 1  # unless they are of classes, all may be compared with all
    batches = [one for one in (feed.batches if feed else ()) if not vectors or one.classes is not None]
    if orders is not None and orders.meets == "repeated" and (batches or not vectors):
        return _words(orders.one, orders.other, {"first rows": orders.one[:FEW], "of the texts": orders.other[:FEW]})
    repeated = [(batch, *both) for batch in batches if (both := _patterns(batch)) is not None]
    count, met, theirs, strange = _came_back(repeated)
    if count < AGAIN or theirs < TOLD * count or max(met, strange) > MOST * theirs:
        return None
    _, own, other = repeated[-1]
    seen = {"images that came back": count, "texts that came with them": theirs / count, "beside them": met / count}
    return _words(_samples(own), _samples(other), seen)


def _words(images: Sequence[int], texts: Sequence[int], seen: Mapping[str, object]) -> Stray:
    """Of each row, the sample that the image is of, and the text."""
    each = len(images) // len(set(images))
    what = f"images are given with texts of others: with {each} texts each, the images of a batch go"
    remedy = "images.repeat_interleave(k, 0) goes with texts.flatten(0, 1), and images.repeat(k, 1, 1, 1) with"
    how = f"{what} {_listed(images)}, and the texts {_listed(texts)}"
    return Stray(how, f"{remedy} texts.transpose(0, 1).flatten(0, 1)", True, dict(seen))


def _came_back(repeated: list[tuple[Fed, Pattern, Pattern]]) -> tuple[int, float, float, float]:
    """Images that came back; of the texts before: those beside them, in their other places, and in a neighbour's."""
    count, met, theirs, strange = 0, 0.0, 0.0, 0.0
    known: dict[int, tuple[frozenset[int], frozenset[int]]] = {}
    for batch, own, other in repeated:
        images = [batch.images[places[0]] for places in own]
        beside, away = _texts(batch, own), _texts(batch, other)
        for at, image in enumerate(images):
            if image in known:
                count += 1
                met += _shared(known[image][0], beside[at])
                theirs += _shared(known[image][1], away[at])
                strange += _shared(known[image][1], away[at - 1])
        known.update(zip(images, zip(beside, away, strict=True), strict=True))
    return count, met, theirs, strange


def _patterns(batch: Fed) -> tuple[Pattern, Pattern] | None:
    """The rows of each image, and those of its texts were these in the other order; None where images have neither."""
    total, count = len(batch.images), len(set(batch.images))
    times = total // max(1, count)
    if count < 2 or times < 2 or count * times != total:
        return None
    tiles = [range(at, total, count) for at in range(count)]
    runs = [range(at, at + times) for at in range(0, total, times)]
    own, other = (tiles, runs) if batch.images[0] == batch.images[count] else (runs, tiles)
    regular = all(batch.images[row] == batch.images[places[0]] for places in own for row in places)
    varied = sum(map(len, _texts(batch, other))) >= VARIED * total
    return (own, other) if regular and varied else None


def _texts(batch: Fed, pattern: Pattern) -> list[frozenset[int]]:
    return [frozenset(batch.texts[row] for row in places) for places in pattern]


def _shared(before: frozenset[int], now: frozenset[int]) -> float:
    return len(before & now) / len(now)


def _samples(pattern: Pattern) -> list[int]:
    of = {row: sample for sample, places in enumerate(pattern) for row in places}
    return [of[row] for row in sorted(of)]


def _listed(samples: Sequence[int]) -> str:
    return "0, 1, 2, .., 0, 1, 2, .." if samples[1] else "0, 0, .., 1, 1, .."
