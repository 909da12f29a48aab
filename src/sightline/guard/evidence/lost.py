"""Samples of a batch that were given one input, one text or one another's share of a softmax, or no gradient."""

from __future__ import annotations

from sightline.guard.evidence.loading import CollatedSeen, FeedSeen, LoaderSeen, RowsSeen, SharedTextSeen
from sightline.guard.evidence.pull import AxisSeen
from sightline.guard.evidence.strays import Stray

ALIKE, MOST = 8, 0.9  # different batches of one input each, and their share of all: a last one may hold one sample
ONE, FEWEST = 16, 4  # batches of which one row has a gradient, and rows of each
NOISE = 4  # times one rounding of the largest output


def collapsed(collated: CollatedSeen | None, shared: SharedTextSeen | None, feed: FeedSeen | None) -> Stray | None:
    """All samples are given what one of them is."""
    if collated and collated.of_one:
        what = f"{collated.by} is given {collated.samples} samples and goes on with one of them: the rest is lost"
        return Stray(what, "hand on all samples of a batch", True, {"samples of a batch": collated.samples})
    if collated and collated.part:
        what = f"{collated.by} is given {collated.samples} samples, and its '{collated.part}' is made of one of them"
        return Stray(what, "hand on what each sample has of it, one row a sample", True, {"of one": collated.part})
    return (_one_text(shared) if shared else None) or (_one_input(feed) if feed else None)


def _one_text(shared: SharedTextSeen) -> Stray | None:
    """A text that tells the class of one sample, and of no other in its batch, was that sample's own."""
    if (only := shared.only()) is None:
        return None
    best, told, others = only
    what = f"all {shared.rows} samples of a batch share one row of token ids, that of sample {best} alone"
    remedy = "give the processor one list of images for each text, so that ids have one row a sample"
    return Stray(what, remedy, True, {"nats that it tells of this sample's classes": told, "and of another's": others})


def _one_input(feed: FeedSeen) -> Stray | None:
    one = [batch.inputs for batch in feed.batches if batch.one_sample]
    if len(set(one)) < ALIKE or len(one) < MOST * len(feed.batches):
        return None
    what = f"all {len(one[0])} inputs of a batch are one and the same, though their classes differ"
    remedy = "give each sample memory of its own: x.copy() or x.clone() of what the data set fills again"
    return Stray(what, remedy, True, {"batches of one input": len(one), "of": len(feed.batches)})


def unequal(
    axis: AxisSeen | None, feed: FeedSeen | None, rows: RowsSeen | None, loader: LoaderSeen | None
) -> Stray | None:
    """What a loss makes of its samples: a softmax over all of them, or nothing, but for one."""
    if axis is not None and axis.samples:
        what = f"the loss takes its softmax of {axis.taken} outputs along dimension {axis.dim}, over the samples of a"
        what += " batch, though it teaches each of them a class"
        return Stray(what, "name the dimension of the classes: log_softmax(logits, dim=-1)", True)
    return _one_teaches(feed, rows, loader) if feed and rows and loader else None


def _one_teaches(feed: FeedSeen, rows: RowsSeen, loader: LoaderSeen) -> Stray | None:
    """Always the first sample of a loader's batch, or always the last, and no other row moves its output."""
    apart = rows.own is not None and rows.own > NOISE * rows.noise >= max(rows.others, default=1.0)
    moved = [batch for batch in feed.batches if batch.taught != ()]  # signs of an absolute error may cancel out
    full = [batch for batch in moved if batch.taught is not None and len(batch.inputs) == loader.size]
    if not apart or loader.size is None or loader.size < FEWEST or len(full) < max(ONE, MOST * len(moved)):
        return None
    if any(len(batch.taught or ()) != 1 for batch in full):
        return None
    places = {place for batch in full for place in batch.taught or ()}
    if places not in ({0}, {loader.size - 1}) or any(len(set(batch.inputs)) < FEWEST for batch in full):
        return None
    what = (
        f"of the {loader.size} samples of a batch the {'first' if places == {0} else 'last'} one alone has a gradient"
    )
    remedy = (
        "add up the losses of all samples before backward(): loss = loss + criterion(...), or give it the whole batch"
    )
    return Stray(what, remedy, True, {"batches": len(full)})
