"""Number formats at work: the loss scale, clipping beside it, updates that rounding swallows, batches left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ScaledStep:
    """One optimizer step under a loss scale. Gradients are as the optimizer uses them: unscaled.

    Attributes:
        scale: the loss scale of the step.
        norm, largest: L2 norm and largest absolute value of all gradients.
        kept: of one parameter's gradient, the share of its norm that was left after the backward pass (1.0 where
            nothing clipped it); None where it was not seen.
        level: how many values are as large as the largest.
    """

    step: int
    scale: float
    norm: float
    largest: float
    kept: float | None = None
    level: int = 1


@dataclass(frozen=True, slots=True)
class ScalerSeen:
    """A dynamic loss scale.

    Attributes:
        scales: the scale at each moment it was read, oldest first.
        steps: the measured optimizer steps, oldest first.
        backwards, taken: backward passes with this scale, and optimizer steps that were not skipped.
    """

    step: int
    scales: tuple[float, ...]
    steps: tuple[ScaledStep, ...] = ()
    backwards: int = 0
    taken: int = 0


@dataclass(frozen=True, slots=True)
class ClippedSeen:
    """The first calls that were to clip gradients.

    Attributes:
        late: of `calls`, those on gradients that the optimizer had stepped with, and that nothing had been added to.
        early: those where no parameter had a gradient.
        cut: the median of the norms that were found over the largest that was wanted; 0 where no norms were asked for.
    """

    step: int
    calls: int = 0
    late: int = 0
    early: int = 0
    cut: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundingSeen:
    """What became of updates to parameters that the optimizer holds in a 16-bit format, over the measured steps.

    The optimizer's own state says what each update was to be. All counts are of sampled elements.

    Attributes:
        dtype: the format of most of them.
        steps: measured steps.
        updates: updates that were not 0; `swallowed`: those smaller than a fifth of the spacing of the format at their
            weight (round-to-nearest loses them) that left the weight as it was.
        owed: elements whose updates, each swallowed, add up to more than one spacing, and that never moved.
        paid: elements of the same kind that did move (a residue that is kept, or rounding at random).
        learning_rate: the largest of the groups that hold them.
        guessed: nobody says what the updates were to be; their size is that of small weights' moves. `owed`: moves by
            whole spacings that large weights, which updates of that size are below a fifth of, should have made in all,
            and `paid` those that they made.
    """

    step: int
    dtype: str
    steps: int
    updates: int
    swallowed: int
    owed: int
    paid: int
    learning_rate: float
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class AverageSeen:
    """An average of a 16-bit model's weights that is kept in 16 bits itself. Counts are of sampled values.

    Attributes:
        dtype: its format.
        writes: looks in a row at which it had nearly always been written since the last one.
        far: values that the weight was at least 8 spacings away from, on one side, at the first and at the last look.
        stayed: those of them that were the same number at both.
    """

    step: int
    dtype: str
    writes: int
    far: int
    stayed: int


@dataclass(frozen=True, slots=True)
class LeftOutSeen:
    """Training forwards that gave NaN and that no backward pass came back to. Since the first forward left alone.

    Attributes:
        forwards: training forwards that were heard since; trained: those of them that a backward pass came back to.
        left_out: those that gave NaN or +inf, and were left alone.
        asked, again: of the first few of them, those run once more with later weights; those that gave it again.
        spoiled: the weights held NaN by then themselves.
        origin: where it first showed, told by the last run.
    """

    step: int
    forwards: int
    trained: int
    left_out: int
    asked: int
    again: int
    spoiled: bool
    origin: str | None


@dataclass(frozen=True, slots=True)
class AutocastSeen:
    """One training forward under autocast; or a training loss, of whose graph autocast reached no product.

    Attributes:
        asked_on, dtype: the device type and the format of the autocast that is on.
        device: where the model's outputs are.
        products: format -> matrix products and convolutions of the forward pass; `elements`: -> elements they made.
        beside: what autocast is on around instead, where the model ran outside of it.
    """

    step: int
    asked_on: str
    dtype: str
    device: str
    products: Mapping[str, int]
    elements: Mapping[str, int]
    beside: str | None = None
