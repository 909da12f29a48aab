"""In which places the samples of a batch leave a model, beside those in which they came."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Literal

from sightline.guard.evidence.loading import FeedSeen

Meets = Literal["inputs", "pairs", "labels", "repeated"]
AGAIN, OTHERS = 32, 0.1  # inputs that came back, and the share of them with another class: noise, and no other order
MANY, VARIED = 0.5, 0.3  # of the places, that meet strangers; of two classes drawn at random, that differ


@dataclass(frozen=True, slots=True)
class OrdersSeen:
    """Answer of a probe: for each place of an output, which row of an input moves it.

    Attributes:
        one, other: the rows of two inputs, by the places that they come out in. Each is a permutation: each place is
            moved by one row alone, and each row moves one place alone.
        meets: what meets in a place. "inputs": both move one and the same row of an output. "pairs": they make vectors,
            or rows and columns of scores, of which a loss was seen to hold those in the same place together. "labels":
            all inputs come out as `one`, and `other` is the order in which they came. "repeated": no permutations, but
            of each row the sample that the image is of, and the text (of a model whose rows may not be outputs).
        told: the model gives whole numbers beside its output, which may tell the order.
    """

    step: int
    one: tuple[int, ...]
    other: tuple[int, ...]
    meets: Meets
    told: bool = False

    def wrong(self, feed: FeedSeen | None) -> bool:
        """Whether samples meet others, unknown to whoever called; of classes, where these are theirs."""
        if self.told or not self.apart or self.meets == "repeated":
            return False
        return self.meets != "labels" or (feed is not None and self.strangers(feed))

    def strangers(self, feed: FeedSeen) -> bool:
        """Whether each output, in another sample's place, is taught the class of that one.

        So it is if classes stay with the inputs in the order in which these came, though in other batches: a loss that
        knew the order of the outputs would have taught with others.
        """
        last: dict[int, tuple[int, int]] = {}
        classes: Counter[int] = Counter()
        again = conflicts = 0
        for batch in feed.batches:
            company = hash(frozenset(batch.inputs))
            for row, label in zip(batch.inputs, batch.classes or (), strict=False):
                there, before = last.get(row, (company, label))
                again += there != company
                conflicts += there != company and before != label
                last[row] = company, label
                classes[label] += 1
        differ = 1 - sum((count / classes.total()) ** 2 for count in classes.values()) if classes else 0.0
        many = len(self.apart) >= MANY * len(self.one)
        return many and again >= AGAIN and differ >= VARIED and conflicts <= OTHERS * differ * again

    @property
    def apart(self) -> tuple[int, ...]:
        """The places at which two samples meet."""
        return tuple(at for at, (a, b) in enumerate(zip(self.one, self.other, strict=True)) if a != b)
