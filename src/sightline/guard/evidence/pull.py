"""Where a loss pulls the outputs of a batch, and what it compares them with."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

BATCHES = 5  # that pull all outputs to one number, each to another one: targets of one value have one, or two by turns
APART = 1e-3  # of the outputs' spread: float32 finds where a line crosses 0 to about 1e-5 of it
CLOSE = 0.01  # of these numbers' range: a GAN's real and fake by turns are two, and drift a little as sigmoids bend


@dataclass(frozen=True, slots=True)
class PullSeen:
    """Batches whose loss pulls every sample's one output towards the same number, the harder the farther it is away.

    Each such gradient is an exact straight line over outputs that lie about as far apart as the number is away: nothing
    in it depends on the single sample.

    Attributes:
        rows: samples of the smallest of these batches.
        centres: batch by batch, the number that it pulls to; `means`: the mean of the outputs themselves.
        spread: the outputs' standard deviation, batch by batch.
    """

    step: int
    rows: int
    centres: tuple[float, ...]
    means: tuple[float, ...]
    spread: tuple[float, ...]

    @property
    def targets_lost(self) -> bool:
        """Whether all batches pull to one number, which differs from batch to batch, and is not the outputs' mean."""
        if len(self.centres) < BATCHES:
            return False
        least = APART * max(self.spread)
        ordered = sorted(self.centres)
        new = all(b - a > max(least, CLOSE * (ordered[-1] - ordered[0])) for a, b in pairwise(ordered))
        return new and all(abs(c - m) > least for c, m in zip(self.centres, self.means, strict=True))


@dataclass(frozen=True, slots=True)
class CrossedSeen:
    """A loss that compares the output of each sample with the values of all, as their shapes make pairs by themselves.

    Attributes:
        given: shape of what comes of the outputs; `other`: of what it meets, which does not learn; `made`: of both
            together. Seen in several batches, with values that differ.
    """

    step: int
    given: tuple[int, ...]
    other: tuple[int, ...]
    made: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AxisSeen:
    """A softmax under a loss, in several steps.

    Attributes:
        made: shape of what the last layer gave.
        taken: shape in which the softmax takes it, and `dim`, along which: each of its rows holds as many numbers as
            there are classes, and numbers of several places, or its sums are those of all samples.
        samples: it is along the samples, though each of them is taught a class.
    """

    step: int
    made: tuple[int, ...]
    taken: tuple[int, ...]
    dim: int
    samples: bool = False
