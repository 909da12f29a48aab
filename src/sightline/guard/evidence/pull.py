"""Where a loss pulls the outputs of a batch."""

from __future__ import annotations

from dataclasses import dataclass


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
