"""How data reaches the model: loaders, what was fed step by step, and answers of the probes of loading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LoaderSeen:
    """A loader at the start of an epoch.

    Attributes:
        epoch: epochs that began before this one.
        iterable: True for an iterable data set, False for a map-style one.
        workers: worker processes (0: the training process loads).
        replicas: ranks that its sampler splits the data between; None when the sampler does not split.
        shuffles: whether that sampler says that it shuffles; None when it does not say.
        orders: a hash of the sampler's order at the start of each epoch so far, oldest first; None where the order
            cannot be read without drawing the host's random numbers.
        samples: samples of one epoch on this rank; None when unknown.
        batches: batches of one epoch; None when unknown.
        starts: optimizer steps taken at the start of each epoch so far; empty where that is inferred and not seen.
    """

    step: int
    epoch: int
    iterable: bool
    workers: int
    replicas: int | None = None
    shuffles: bool | None = None
    orders: tuple[int | None, ...] = ()
    samples: int | None = None
    batches: int | None = None
    starts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Fed:
    """One training batch: a hash of each row of the inputs, and the class of each row where the loss has one.

    `classes` are read off the loss's gradient, and only where it is that of cross-entropy with one class a row.
    `epoch`: the loader's, where it is known when epochs begin.
    """

    step: int
    inputs: tuple[int, ...]
    classes: tuple[int, ...] | None = None
    epoch: int | None = None

    @property
    def print(self) -> int:
        """One number for the batch; the order of its rows counts."""
        return hash(self.inputs)


@dataclass(frozen=True, slots=True)
class FeedSeen:
    """The batches fed so far that were hashed, oldest first (the first ones all, later ones as time allows).

    `loader`: the loader's set-up, where it is known.
    """

    step: int
    batches: tuple[Fed, ...]
    loader: LoaderSeen | None = None


@dataclass(frozen=True, slots=True)
class DrawsSeen:
    """Answer of a probe: one sample of the data set, drawn again and again in workers of a copy of the loader.

    Hashes of what each draw gave. `workers`: worker -> its draws in order; `again`: the same in a second epoch of the
    copy (empty where workers live on from epoch to epoch).
    """

    step: int
    workers: Mapping[int, tuple[int, ...]]
    again: Mapping[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class RowsSeen:
    """Answer of a probe: another row's input was put in place of one row's, in eval mode.

    Attributes:
        rows: samples in the batch: the leading dimension that all inputs share.
        output: shape of the output.
        own: largest absolute change of that row's output; None when the output has not one entry a row.
        others: the same for each other row, largest first.
        noise: what two equal passes differ by, or one rounding of the largest output makes.
        varied: whether the run had fed different batches by then (a fixed set of rows may be one sample).
    """

    step: int
    rows: int
    output: tuple[int, ...]
    own: float | None = None
    others: tuple[float, ...] = ()
    noise: float = 0.0
    varied: bool = True


@dataclass(frozen=True, slots=True)
class WaitingSeen:
    """Medians over the recent steps, in seconds.

    Attributes:
        wait: from the end of a step until the next batch reached the model (on CUDA: while the device had nothing to
            do); measured in the loader itself where `exact`.
        period: from one step to the next.
        make: what a worker needs to make one batch, by a probe; None where it was not probed.
        device: type of the model's device.
    """

    step: int
    steps: int
    wait: float
    period: float
    workers: int
    exact: bool
    device: str
    make: float | None = None
    batch_size: int | None = None
    pinned: bool = False
