"""How data reaches the model: loaders, what was fed step by step, and answers of the probes of loading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from statistics import fmean, pstdev

SURE = 32  # roundings: what one of a sample's inputs does may be little, but must be surely more than nothing
SHARE, FEWEST = 0.1, 4  # of the own row's change, in the median of the others, of so many rows at least
BATCHES, SAMPLES = 16, 8  # fewer batches or samples of one text tell nothing of how the others scatter
OUTSTANDING = 6.0  # standard deviations of the other samples, and
CHANCE = 16.0  # nats: a chi-squared variable of mean m goes beyond m + 2 sqrt(mx) + 2x once in e^x = 10^7 times
DRAWN = 0.25  # of a batch's rows came back: of fewer, a few rows of a small world were met once more
LIVELY = 0.5  # of this sample's entropy: others whose classes hardly vary have nothing that a text could tell


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
        size: samples of a batch, where the loader makes the batches.
        length: samples of the data set; None where it does not say.
        deals: its sampler, somebody's own, gives another order in another epoch, and is told none.
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
    size: int | None = None
    length: int | None = None
    deals: bool = False


@dataclass(frozen=True, slots=True)
class Fed:
    """One training batch: a hash of each row of the inputs, and the class of each row where the loss has one.

    `classes` are read off the loss's gradient, and only where it is that of cross-entropy with one class a row.
    `epoch`: the loader's, where it is known when epochs begin; `place`: in that epoch, where it is known.
    `taught`: places of the rows of (B, C) outputs that have a gradient, where it teaches no classes.
    `texts`, `images`: hashes of both for each row, where one image came beside ids.
    `tags`: a number for each row's set of labels, where the loss has several labels a row.
    `pulls`: of each row the first output and its gradient, times all outputs, where the loss teaches neither.
    """

    step: int
    inputs: tuple[int, ...]
    classes: tuple[int, ...] | None = None
    epoch: int | None = None
    place: int | None = None
    texts: tuple[int, ...] = ()
    images: tuple[int, ...] = ()
    taught: tuple[int, ...] | None = None
    tags: tuple[int, ...] | None = None
    pulls: tuple[tuple[float, float], ...] = ()

    @property
    def print(self) -> int:
        """One number for the batch; the order of its rows counts."""
        return hash(self.inputs)

    @property
    def one_sample(self) -> bool:
        """Whether all rows of several are the same input, and are taught different classes."""
        return len(set(self.inputs)) == 1 and len(set(self.classes or ())) > 1


@dataclass(frozen=True, slots=True)
class FeedSeen:
    """The batches fed so far that were hashed, oldest first (the first ones all, later ones as time allows).

    `loader`: the loader's set-up, where it is known; `lengths`: epochs that it gave to the end -> all their batches.
    """

    step: int
    batches: tuple[Fed, ...]
    loader: LoaderSeen | None = None
    lengths: Mapping[int, int] = field(default_factory=dict)

    def came_back(self) -> tuple[int, int, float]:
        """Inputs that came in a later batch again; those with another class; the share of these if unrelated.

        Of a batch whose rows are new but for a few, these were not fed again: they were drawn, as wrong pairs are.
        """
        last: dict[int, tuple[int, int]] = {}
        classes: Counter[int] = Counter()
        again = conflicts = 0
        for batch in self.batches:
            fed = sum(row in last for row in batch.inputs) >= DRAWN * len(batch.inputs)
            for row, label in zip(batch.inputs, batch.classes or batch.tags or (), strict=False):
                step, before = last.get(row, (batch.step, label))
                again += fed and step < batch.step
                conflicts += fed and step < batch.step and before != label
                last[row] = (batch.step, label)
                classes[label] += 1
        total = max(1, classes.total())
        return again, conflicts, 1 - sum((count / total) ** 2 for count in classes.values())


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
class CollatedSeen:
    """What a collate function of the host's own makes of a batch (answer of a probe), or its loop.

    Attributes:
        samples: that it is given.
        of_one: what comes of it is the same whatever all samples but one are.
        by: who is given them.
        part: the pictures (or other numbers) that are those of one sample, among what is made of all; "" if none are.
    """

    step: int
    samples: int
    of_one: bool
    by: str = "collate_fn"
    part: str = ""


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
        alone: where a row has several inputs, for each of images or features that was replaced alone: the change of
            that row's output, and the median of the other rows'. beside: the largest of the other rows', likewise.
        jumps: other rows do not move at all when the row is changed a little: experts were full, and are less so.
        second: dimension 1 of all inputs, where they have one and the same; `columns`: the output has it too, and its
            entries do not mix: it may be the batch, and dimension 0 time.
    """

    step: int
    rows: int
    output: tuple[int, ...]
    own: float | None = None
    others: tuple[float, ...] = ()
    noise: float = 0.0
    varied: bool = True
    alone: tuple[tuple[float, float], ...] = ()
    jumps: bool = False
    beside: tuple[float, ...] = ()
    second: int | None = None
    columns: bool = False

    @property
    def lost(self) -> bool:
        """Whether fewer came out than went in, by a whole factor, and not (time, batch, classes), as CTC takes them."""
        came = self.output[0] if self.output else 0
        return 0 < came < self.rows and self.rows % came == 0 and self.rows not in self.output[1:-1]

    @property
    def pooled(self) -> tuple[float, float] | None:
        """Those of `alone` that tell most other rows about as much as their own: surely more than any rounding."""
        least = SURE * self.noise
        found = [(own, other) for own, other in self.alone if own > least < other and other > SHARE * own]
        return found[0] if found and self.rows >= FEWEST else None

    @property
    def passed_on(self) -> tuple[float, float] | None:
        """Those of `alone` that move one other row, at least, about as much as their own."""
        least, pairs = SURE * self.noise, zip(self.alone, self.beside, strict=False)
        found = [(own, most) for (own, _), most in pairs if own > least < most and most > SHARE * own]
        return found[0] if found and self.rows >= FEWEST else None


@dataclass(frozen=True, slots=True)
class WaitingSeen:
    """Medians over the recent steps, in seconds.

    Attributes:
        wait: from the end of a step until the next batch reached the model (on CUDA: while the device had nothing to
            do); measured in the loader itself where `exact`.
        period: from one step to the next.
        make: what a worker needs to make one batch, by a probe; None where it was not probed.
        device: type of the model's device.
        samples: that a step waits for; None where the loader does not tell.
        reopened: the file that is opened anew for each sample; None if none is, or nobody noted it.
    """

    step: int
    steps: int
    wait: float
    period: float
    workers: int
    exact: bool
    device: str
    make: float | None = None
    samples: int | None = None
    pinned: bool = False
    reopened: str | None = None


@dataclass(frozen=True, slots=True)
class SharedTextSeen:
    """Training batches in which all samples shared one text, oldest first.

    `batches`: (a hash of the text, the class of each sample in the order of the rows); all of one size.
    """

    step: int
    batches: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def rows(self) -> int:
        """Samples in a batch."""
        return len(self.batches[0][1])

    @property
    def texts(self) -> int:
        """Different texts."""
        return len({text for text, _ in self.batches})

    def only(self) -> tuple[int, float, float] | None:
        """(the one sample of which the texts tell, how much, and how much of another), in nats; None: of none."""
        if len(self.batches) < BATCHES or self.rows < SAMPLES or self.texts < 2:
            return None
        told = [known - chance for known, chance in map(self.told, range(self.rows))]
        best = max(range(self.rows), key=told.__getitem__)
        lively = [row for row in range(self.rows) if self.entropy(row) >= LIVELY * self.entropy(best)]
        others = [told[row] for row in lively if row != best]
        least = CHANCE + (2 * CHANCE * self.told(best)[1]) ** 0.5
        if len(others) < SAMPLES - 1 or told[best] - fmean(others) < max(least, OUTSTANDING * pstdev(others)):
            return None
        return best, told[best], fmean(others)

    def entropy(self, row: int) -> float:
        """Of the classes of the sample in `row`, in nats."""
        counts = Counter(classes[row] for _, classes in self.batches).values()
        return -sum(n * log(n / len(self.batches)) for n in counts) / len(self.batches)

    def told(self, row: int) -> tuple[float, float]:
        """(what the texts tell of the classes of the sample in `row`, what they would tell by chance).

        Mutual information in nats, of all batches together. Chance: the same texts beside the classes of batches that
        came 1 to 8 later.
        """
        classes = [one[row] for _, one in self.batches]
        chance = [self._information([*classes[by:], *classes[:by]]) for by in range(1, 9)]
        return self._information(classes), sum(chance) / len(chance)

    def _information(self, classes: Sequence[int]) -> float:
        pairs = Counter(zip((text for text, _ in self.batches), classes, strict=True))
        texts, kinds = Counter(text for text, _ in self.batches), Counter(classes)
        return sum(n * log(n * len(classes) / (texts[text] * kinds[kind])) for (text, kind), n in pairs.items())
