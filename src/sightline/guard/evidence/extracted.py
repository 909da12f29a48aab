"""Features that a script kept of one model to train another on, beside the samples that they were made of."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

AGAIN, FEW, HALF = 16, 8, 0.5  # features; conflicts; and those of independent labels: noise has no other order to fit
FITS = 0.98  # of the classes taught that are those of another order: by chance, 16 of 16 of two classes have 2e-5


@dataclass(frozen=True, slots=True)
class ExtractedSeen:
    """Features of a pass of a loader that a loss taught classes for.

    Attributes:
        taught: the class that each was taught with; `own`: the label that its sample came with.
        placed: the label that stands in its place in the data set, or in another pass of a loader.
    """

    step: int
    taught: tuple[int, ...]
    own: tuple[int, ...]
    placed: tuple[int, ...]

    @property
    def conflicts(self) -> int:
        """How many were taught another class than their sample's."""
        return sum(one != other for one, other in zip(self.taught, self.own, strict=True))

    @property
    def in_another_order(self) -> bool:
        """Whether the classes are the samples' labels, and not in the order of the features.

        Labels of another kind, or drawn at random, are in no order of the samples' own.
        """
        count = len(self.taught)
        fits = sum(one == other for one, other in zip(self.taught, self.placed, strict=True))
        if count < AGAIN or fits < FITS * count:
            return False
        independent = 1 - sum((n / count) ** 2 for n in Counter(self.own).values())
        return self.conflicts >= max(FEW, HALF * independent * count)
