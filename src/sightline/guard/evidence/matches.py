"""What belongs together: inputs and their labels, both inputs of a pair, an image and its mask or boxes."""

from __future__ import annotations

from dataclasses import dataclass

PARTED = 4, 0.25  # readings, and share of those that tell


@dataclass(frozen=True, slots=True)
class MatchesSeen:
    """Pairs of inputs that a contrastive loss taught to find each other in their batch, in all batches looked at.

    Attributes:
        rows: the fewest pairs of a batch.
        steps, won: of each batch: the optimizer steps before it, and the share of other partners that scored below the
            own one (0.5 by chance, 1 where all pairs are found).
        again: inputs that came back and whose partner then had been seen before; `kept`: it was theirs as before;
            `expected`: so many, were partners dealt at random.
        natural: both inputs look like images or texts, and not like random numbers.
        different: of samples with a class each, whose others are those of other classes: inputs that were seen, of
            `passes` over all of them; 0 of pairs.
    """

    step: int
    rows: int
    steps: tuple[int, ...]
    won: tuple[float, ...]
    again: int
    kept: int
    expected: float
    natural: bool
    different: int = 0
    passes: float = 0.0


@dataclass(frozen=True, slots=True)
class KinSeen:
    """How surely the inputs of `rows` rows have anything to do with their labels, or both inputs of pairs.

    `told`: in standard deviations of what chance gives.
    """

    step: int
    rows: int
    told: float


@dataclass(frozen=True, slots=True)
class PairedSeen:
    """Answer of a probe: samples of the data set, each read several times, beside their first reading.

    Attributes:
        kind: what belongs to the image: "masks" or "boxes"; "rows" of a batch that were collated, and no readings.
        moved: readings whose image was mirrored, turned or moved, and whose target shows whether it was too.
        apart: those of them whose target went another way, or stayed.
    """

    step: int
    kind: str
    moved: int
    apart: int

    @property
    def parted(self) -> bool:
        """Whether targets go ways of their own: joint transforms leave none apart, one transform of several a half."""
        return self.apart >= PARTED[0] and self.apart >= PARTED[1] * self.moved
