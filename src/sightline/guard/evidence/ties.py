"""Pairs of answers of which a loss prefers one to the other, though they are the same."""

from __future__ import annotations

from dataclasses import dataclass

from sightline.guard.evidence.beginnings import Misplaced

PAIRS, BATCHES = 32, 4  # fewer may be chance
HALF = 0.5  # of the pairs: some may tie on purpose


@dataclass(frozen=True, slots=True)
class TiedSeen:
    """Pairs of rows of one model in training, pulled apart by their loss. `tied`: both rows are one to the last bit,
    and what pulls the one pulls the other back: nothing is learnt of them."""

    step: int
    pairs: int
    tied: int
    batches: int

    @property
    def told(self) -> bool:
        """Whether that is a fault of the rows, and not of a few of them."""
        return self.pairs >= PAIRS and self.batches >= BATCHES and self.tied >= HALF * self.pairs


def tied(seen: TiedSeen | None) -> Misplaced | None:
    """Preferences between two answers that are one, in words."""
    if seen is None or not seen.told:
        return None
    return Misplaced(
        f"chosen and rejected are the same in {seen.tied} of {seen.pairs} pairs that a loss compared",
        "give pairs that differ: their columns may be one, or a limit of length leaves nothing but the prompt",
        {"pairs": seen.pairs, "the same": seen.tied, "batches": seen.batches},
    )
