"""Which samples of one data set are judged that the same weights had been taught, while others had not?

Samples are told by their places in the data set, so that it holds for those that are augmented or change their size.
What a model was taught is remembered from one optimizer to the next, as long as its weights go on from what they were
when it was last judged: where they were set back, as between the folds of a cross-validation, nothing was taught yet.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler

from sightline.attach.feed import Feed
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.attach.onlookers.same_data import same_data
from sightline.attach.origins import values_of
from sightline.guard.evidence import RedrawnSeen
from sightline.guard.probes.call import Call

MOST = 1 << 20  # samples of a part of a data set: more take a while to compare
ROUNDS = 64  # evaluations whose weights are remembered


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A data set of `size` samples, and the places of some of them: (N,) int64, each once.

    `whole`: the first data set that was met of these data; `shown`: the one itself.
    """

    whole: weakref.ref[Any]
    shown: weakref.ref[Any]
    size: int
    places: Tensor

    def of_one(self, other: Part) -> bool:
        """Whether both are of the same data."""
        whole = self.whole()
        return whole is not None and whole is other.whole()

    def shared(self, other: Tensor) -> int:
        """How many of its places are in `other`."""
        return int(torch.isin(self.places, other).sum())


@dataclass(slots=True)
class Past:
    """What one model was taught, a part of each data set; the last loader's, of which so many samples had been taught
    by another before; and its weights at evaluations."""

    taught: list[Part] = field(default_factory=list)
    last: Part | None = None
    again: int = 0
    loaders: weakref.WeakSet[DataLoader[Any]] = field(default_factory=weakref.WeakSet)
    weights: list[tuple[float, ...]] = field(default_factory=list)
    met: list[tuple[weakref.ref[Any], weakref.ref[Any]]] = field(default_factory=list)  # data set -> first of its data

    def part(self, loader: DataLoader[Any]) -> Part | None:
        """Which samples of which data it gives; None where it is no part, or nobody can tell."""
        if (part := part_of(loader)) is None:
            return None
        data = part.shown()
        self.met = [pair for pair in self.met if pair[0]() is not None]
        first = next((first for shown, first in self.met if shown() is data), None)
        if first is None:
            others = (shown for shown, _ in self.met if same_data(shown(), data))
            first = next(others, part.shown)
            self.met.append((part.shown, first))
        return replace(part, whole=first)

    def learns(self, part: Part) -> None:
        """It is taught from another loader."""
        known = self.of(part)
        self.again = part.shared(known.places) if known is not None else 0
        self.taught = [one for one in self.taught if one is not known]
        whole = part.places if known is None else torch.cat([known.places, part.places]).unique()
        self.taught.append(replace(part, places=whole))
        self.last = part

    def of(self, part: Part) -> Part | None:
        """What it was taught of the same data set."""
        return next((one for one in self.taught if one.of_one(part)), None)


class Redrawn(Onlooker):
    """Compares the parts of data sets that loaders give, at the first batch of each loader and at each evaluation."""

    shows: ClassVar = ("RedrawnSeen",)
    known: ClassVar[weakref.WeakKeyDictionary[nn.Module, Past]] = weakref.WeakKeyDictionary()

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._past = self.known.setdefault(recorder.model, Past())
        self._anew = True  # other weights would not have been seen to come
        self._judged: int | None = None  # the step of the evaluation since which nothing was taught
        self._knew: int | None = None  # the step before which its weights were last looked at

    def again(self) -> None:
        """Another optimizer, which is known from its first step on, may have come with other weights."""
        self._anew = self._knew is None or self.recorder.step - self._knew > 1

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """The loader of the last batch feeds the model, or gives what it is judged by."""
        if (feed := Feed.last()) is None:
            return
        if training:
            self._trains(feed.loader)
        elif self._judged != self.recorder.step:
            self._judges(feed.loader)

    def _trains(self, loader: DataLoader[Any]) -> None:
        past = self._past
        if self._anew or self._judged == self.recorder.step:
            self._goes_on()
        self._judged = None
        if loader not in past.loaders:
            past.loaders.add(loader)
            if (part := past.part(loader)) is not None:
                past.learns(part)

    def _goes_on(self) -> None:
        """Or it has other weights than it had in any evaluation: then nothing is known of what these were taught."""
        self._anew, self._knew = False, self.recorder.step
        if self._past.taught and values_of(self.recorder.model) not in self._past.weights:
            self._past.taught.clear()
            self._past.loaders.clear()

    def _judges(self, loader: DataLoader[Any]) -> None:
        past, step = self._past, self.recorder.step
        if self._anew:
            self._goes_on()
        if not past.taught:
            return
        self._judged = step
        if weights := values_of(self.recorder.model):
            past.weights = [*past.weights, weights][-ROUNDS:]
        if loader in past.loaders or (part := past.part(loader)) is None or (taught := past.of(part)) is None:
            return
        if (last := past.last) is None or last.whole() is not part.whole():
            return
        self.recorder.offer(
            RedrawnSeen(
                step=step,
                size=part.size,
                judged=len(part.places),
                taught=len(taught.places),
                shared=part.shared(taught.places),
                now=len(last.places),
                both=part.shared(last.places),
                again=past.again,
                shown_twice=last.shown() is not part.shown(),
            )
        )


def part_of(loader: DataLoader[Any]) -> Part | None:
    """Which samples of which data set it gives; None where it is no part, or nobody can tell."""
    data, places = loader.dataset, _sampled(loader)
    while type(data) is Subset:
        inner = torch.as_tensor(data.indices, dtype=torch.long, device="cpu")
        places = inner if places is None else inner[places]
        data = data.dataset
    if places is None or places.dim() != 1 or len(places) > MOST or not hasattr(data, "__len__"):
        return None
    try:
        return Part(weakref.ref(data), weakref.ref(data), len(data), places.unique())
    except TypeError:  # a list has no weak references
        return None


def _sampled(loader: DataLoader[Any]) -> Tensor | None:
    """The places that its sampler draws, where it is one that draws a part."""
    sampler = loader.sampler
    if type(sampler) is not SubsetRandomSampler or getattr(loader.batch_sampler, "sampler", None) is not sampler:
        return None
    return torch.as_tensor(sampler.indices, dtype=torch.long, device="cpu")
