"""What loader workers draw at random: one sample, read and collated again and again by workers of a copy."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from sightline.guard.evidence import DrawsSeen
from sightline.guard.probes.restore import as_bytes
from sightline.guard.probes.samples import quiet_worker

DRAWS = 24  # a worker: of two outcomes (a flip), 24 in a row agree by chance once in 17 million
SECONDS = 3.0  # for all draws; a slow data set is left alone


class Copy(DataLoader[Any]):
    """A loader of our own over the host's data set."""


def quiet_copy(dataset: Any, batches: Sequence[list[int]], collate: Callable[[list[Any]], Any]) -> Copy:
    """One forked worker of our own that reads `batches` of a data set without a word, and with random numbers apart."""
    return Copy(
        dataset,
        batch_sampler=batches,
        num_workers=1,
        collate_fn=collate,
        worker_init_fn=quiet_worker,
        multiprocessing_context="fork",
        generator=torch.Generator().manual_seed(0),
        timeout=SECONDS,
    )


def draws(loader: DataLoader[Any], step: int) -> DrawsSeen | None:
    """Read sample 0 `DRAWS` times in each of two workers of a copy of `loader`, and again in a second epoch.

    Where nothing in the sample is random, what the collate function makes of it is compared (masks, crops of a batch).
    Nothing of the host's is touched: the copy's workers are forked, and its own generator gives their seeds. None for
    iterable data sets, fewer than two workers, start methods other than fork, slow data sets and those that fail.
    """
    if not can_be_copied(loader):
        return None
    start = time.monotonic()
    order = [[0]] * (2 * DRAWS)
    generator = torch.Generator().manual_seed(0)
    copy = Copy(
        loader.dataset,
        batch_sampler=order,
        num_workers=2,
        collate_fn=_Drawn(loader.collate_fn),
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context="fork",
        generator=generator,
        timeout=SECONDS,
    )
    try:
        first = _by_worker(copy, start)
        again = {} if loader.persistent_workers else _by_worker(copy, start)
    except RuntimeError:  # a worker failed or was too slow: the host's own loader will tell
        return None
    return DrawsSeen(step, first, again) if first and (again or loader.persistent_workers) else None


def seconds_a_batch(loader: DataLoader[Any]) -> float | None:
    """How long one worker needs to make a batch, by a forked worker of a copy; None where that cannot be tried."""
    size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None)  # accelerate's has only the second
    if not can_be_copied(loader, least=0) or not size:
        return None
    count = len(loader.dataset)  # type: ignore[arg-type]
    order = [[(b * size + i) % count for i in range(size)] for b in range(3)]
    copy = Copy(
        loader.dataset,
        batch_sampler=order,
        num_workers=1,
        prefetch_factor=3,
        collate_fn=_Timed(loader.collate_fn),
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context="fork",
        generator=torch.Generator().manual_seed(0),
        timeout=SECONDS,
    )
    try:
        ends = list(copy)
    except RuntimeError:
        return None
    return min(late - early for early, late in pairwise(ends))


def can_be_copied(loader: DataLoader[Any], least: int = 2) -> bool:
    """Whether forked workers of our own can read its map-style data set, and it has `least` workers."""
    context = loader.multiprocessing_context
    method = context.get_start_method() if context is not None else torch.multiprocessing.get_start_method()
    data = loader.dataset
    stream = isinstance(data, IterableDataset)  # which has a `__getitem__` that only raises, and may have a length
    sized = not stream and hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return sized and loader.num_workers >= least and method == "fork" and len(data) > 0  # type: ignore[arg-type]


def _by_worker(copy: DataLoader[Any], start: float) -> dict[int, tuple[int, ...]]:
    """Worker -> draws; workers take turns. Empty when time is up."""
    found: dict[int, list[tuple[int, int]]] = {0: [], 1: []}
    for place, digests in enumerate(_until(copy, start)):
        found[place % 2].append(digests)
    if any(len(drawn) < DRAWS for drawn in found.values()):
        return {}
    varied = any(len({sample for sample, _ in drawn}) > 1 for drawn in found.values())
    return {w: tuple(one[0] if varied else one[1] for one in drawn) for w, drawn in found.items()}


def _until(copy: DataLoader[Any], start: float) -> Iterator[tuple[int, int]]:
    for digests in copy:
        if time.monotonic() - start > SECONDS:
            return
        yield digests


class _Drawn:
    """Numbers for what was drawn in a sample, and in what the host's `collate` makes of it (in the worker)."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> tuple[int, int]:
        sample = digest(samples)  # first, for some functions change their samples
        try:
            return sample, digest(self.collate(samples))
        except Exception:  # noqa: BLE001 - one that takes no batch of one sample: its draws cannot be compared
            return sample, 0


def digest(samples: Any) -> int:
    """A number for what was drawn. A pickled tensor is not the same twice, so its bytes are hashed."""
    state = hashlib.blake2b(digest_size=8)
    for part in _parts(samples):
        state.update(part)
    return int.from_bytes(state.digest(), "little")


def _parts(value: Any) -> Iterator[bytes]:
    """The bytes of a sample: tensors, arrays, pictures, numbers and text, in lists, tuples and dictionaries."""
    if isinstance(value, torch.Tensor):
        yield str((value.dtype, tuple(value.shape))).encode()
        yield as_bytes(value.cpu()).numpy().tobytes()
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from (str(key).encode(), *_parts(part))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _parts(part)
    elif callable(getattr(value, "tobytes", None)):  # of NumPy and of PIL
        yield value.tobytes()
    else:
        yield value if isinstance(value, bytes) else pickle.dumps(value)


class _Timed:
    """A collate function's end in time (in the worker)."""

    def __init__(self, collate: Any) -> None:
        self.collate = collate

    def __call__(self, samples: list[Any]) -> float:
        self.collate(samples)
        return time.perf_counter()
