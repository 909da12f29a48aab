"""What feeds a model: the loader of the last batch, told by `attach/script/loaders.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from sightline.guard.evidence import LoaderSeen
from sightline.guard.probes.epochs import deals_anew

ORDERED = 1 << 20  # samples whose order is drawn to be compared; above, the sampler's seed and epoch stand for it


@dataclass(frozen=True, slots=True)
class Feed:
    """The loader of the last batch, its epoch, and the seconds that the process waited for loaders so far.

    `place`: of the batch in its epoch; `lengths`: of the loader's epochs that it gave to the end -> their batches;
    `samples`: places in its data set, where it draws such; `batches`: the last ones, for a host may fetch one ahead.
    """

    loader: DataLoader[Any]
    epoch: int
    waited: float
    place: int = 0
    lengths: Mapping[int, int] = field(default_factory=dict)
    samples: list[int] | None = None
    batches: tuple[Any, ...] = ()

    begun: ClassVar[Callable[[DataLoader[Any]], bool] | None] = None  # whether an epoch of it ever began
    over: ClassVar[bool] = False  # the script came to its end: what it did not read it never will
    source: ClassVar[Callable[[], Feed | None] | None] = None

    @classmethod
    def last(cls) -> Feed | None:
        """That of now; None before the first batch, and where nobody notices loaders."""
        return cls.source() if cls.source is not None else None


def made_anew(loader: DataLoader[Any], former: DataLoader[Any]) -> bool:
    """Whether `loader` gives another epoch of what `former` gave: a loop that makes its loader where it needs one."""
    sampler = type(loader.sampler)
    whole = sampler in (RandomSampler, SequentialSampler, DistributedSampler) and sampler is type(former.sampler)
    return whole and loader.dataset is former.dataset and loader.batch_size == former.batch_size


def splitting(loader: DataLoader[Any]) -> Any:
    """The loader's sampler, when it splits the data between ranks; else one of somebody's own that is told epochs, or
    the stream that is."""
    batches, data = loader.batch_sampler, loader.dataset
    inner = getattr(batches, "sampler", None)  # a batch sampler of somebody's own may have none
    split = next((s for s in (loader.sampler, inner) if hasattr(s, "num_replicas")), None)
    stream = data if isinstance(data, IterableDataset) and not loader.num_workers else None  # workers have copies
    return split or next((s for s in (loader.sampler, batches, inner, stream) if _told_epochs(s)), None)


def _told_epochs(sampler: Any) -> bool:
    torchs = getattr(type(sampler), "__iter__", None) is DistributedSampler.__iter__
    return not torchs and callable(getattr(sampler, "set_epoch", None)) and type(getattr(sampler, "epoch", None)) is int


def order_of(sampler: Any, anew: bool) -> int | None:
    """A hash of the order of torch's own distributed sampler, which follows from its seed and epoch alone.

    Of somebody's own its epoch, if it deals `anew` in another one, and of a stream, which may.
    """
    if anew or (isinstance(sampler, IterableDataset) and _told_epochs(sampler)):
        return hash(sampler.epoch)
    if not isinstance(sampler, DistributedSampler) or type(sampler).__iter__ is not DistributedSampler.__iter__:
        return None
    if len(sampler.dataset) > ORDERED:  # type: ignore[arg-type]
        return hash((sampler.seed, sampler.epoch))
    return hash(tuple(sampler))


def deals(sampler: Any, before: LoaderSeen | None) -> bool:
    """Whether it is one of somebody's own that is to be told each epoch, and gives another order in another one.

    Of a stream it is asked when its epoch was the same `before`.
    """
    if not _told_epochs(sampler):
        return False
    stream = isinstance(sampler, IterableDataset)
    if before is None:
        return not stream and deals_anew(sampler)
    again = stream and before.orders == (hash(sampler.epoch),)
    return before.deals or (again and deals_anew(sampler))
