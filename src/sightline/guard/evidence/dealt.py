"""Images that were dealt anew to the texts beside them, which alone keep what is taught, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from sightline.guard.evidence.loading import SURE, Fed, FeedSeen, RowsSeen
from sightline.guard.evidence.matching import AGAIN, CHANCE, FEW
from sightline.guard.evidence.strays import Stray

TWICE, DRAWN = 0.02, 16  # of an epoch's images; so many pairs of equal ones there were, had each been drawn by chance
KEPT, VARIED = 0.98, 0.2  # texts that keep their class; two rows by chance of different classes
CONFLICTS = 8
MOST = 0.75  # of what unrelated classes would have, and its scatter


class Returns:
    """What one side of the pairs had with it when it came back: the same partner, the same class?"""

    def __init__(self) -> None:
        self.again = self.kept = self.same = self._total = 0
        self.expected = 0.0
        self._last: dict[int, tuple[int, int, int]] = {}
        self.times: Counter[int] = Counter()  # of the partners

    def batch(self, step: int, mine: Sequence[int], others: Sequence[int], classes: Sequence[int]) -> None:
        """The next batch, of which partners and classes have as many rows."""
        for one, other, taught in zip(mine, others, classes, strict=True):
            known = self._last.get(one)
            if known is not None and known[0] < step and self.times[other]:
                self.again += 1
                self.kept += known[1] == other
                self.same += known[2] == taught
                self.expected += self.times[known[1]] / self._total
            self._last[one] = step, other, taught
            self.times[other] += 1
            self._total += 1

    @property
    def dealt(self) -> bool:
        """Whether its partners came as by chance."""
        return self.again >= AGAIN and self.kept <= CHANCE * self.expected + FEW


def dealt(feed: FeedSeen | None, rows: RowsSeen | None) -> Stray | None:
    """Images that came once an epoch each, beside any text, though the outputs for a text hang on its image.

    A pool that partners are drawn from with replacement may be meant: prompts, styles, distractors.
    """
    if feed is None or rows is None or not any(own > SURE * rows.noise for own, _ in rows.alone):
        return None
    batches = [b for b in feed.batches if b.images and b.epoch is not None and b.classes is not None]
    if not _once_an_epoch(batches):
        return None
    images, texts = Returns(), Returns()
    for batch in batches:
        images.batch(batch.step, batch.images, batch.texts, batch.classes or ())
        texts.batch(batch.step, batch.texts, batch.images, batch.classes or ())
    if not (images.dealt and texts.dealt and len(images.times) >= AGAIN):
        return None
    if not _classes_are_the_texts(batches, images, texts):
        return None
    what = f"{images.again - images.kept} of {images.again} images came back beside another text,"
    what += " and the class stays with the text: the image has nothing to do with it"
    remedy = "give both one order: one data set whose row holds image, text and label (StackDataset), or x[i], t[i]"
    return Stray(what, remedy, True, {"beside theirs": images.kept, "expected if dealt anew": images.expected})


def _once_an_epoch(batches: list[Fed]) -> bool:
    epochs: dict[int | None, Counter[int]] = {}
    for batch in batches:
        epochs.setdefault(batch.epoch, Counter()).update(batch.images)
    total, sizes = len({i for epoch in epochs.values() for i in epoch}), [e.total() for e in epochs.values()]
    by_chance = sum(size * (size - 1) for size in sizes) / (2 * max(1, total))
    repeated = sum(epoch.total() - len(epoch) for epoch in epochs.values())
    return by_chance >= DRAWN and repeated <= TWICE * sum(sizes)


def _classes_are_the_texts(batches: list[Fed], images: Returns, texts: Returns) -> bool:
    classes = Counter(label for batch in batches for label in batch.classes or ())
    varied = 1 - sum((count / classes.total()) ** 2 for count in classes.values())
    least = MOST * varied * images.again + (varied * (1 - varied) * images.again) ** 0.5
    unrelated = images.again - images.same >= max(CONFLICTS, least)
    return varied >= VARIED and unrelated and texts.same >= KEPT * texts.again
