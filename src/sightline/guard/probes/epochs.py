"""Does a sampler (or stream) of somebody's own give another order in another epoch, by the number that it is told?"""

from __future__ import annotations

import copy
import random
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, Sampler

from sightline.guard.probes.draws import digest
from sightline.guard.probes.restore import same_randomness

MOST = 1 << 18  # samples, or batches, of an epoch; or numbers in lists of the sampler's
FIRST = 16  # of a stream that are compared


def deals_anew(sampler: Any) -> bool:
    """Whether a copy of it gives the same order twice, and another one once it is told another epoch.

    Nothing of the sampler's changes, nor any random state. False where it cannot be copied, or draws by itself.
    """
    with same_randomness():
        try:
            ours, theirs = _copied(sampler), _copied(sampler)
            now, again = _order(ours), _order(ours)
            theirs.set_epoch(theirs.epoch + 1)
            return now is not None and len(now) > 1 and now == again and _order(theirs) not in (None, now)
        except Exception:  # noqa: BLE001 - it is the script's own code, asked for what it was not made for
            return False


def _order(sampler: Any) -> list[str] | None:
    """What it gives in an epoch; None where that is too much, or goes on. Of a stream, the first."""
    if isinstance(sampler, IterableDataset):
        return [str(digest(one)) for one in islice(iter(sampler), FIRST)]
    given = [str(one) for one in islice(iter(sampler), MOST + 1)]
    return given if len(given) <= MOST else None


def _copied(sampler: Any) -> Any:
    """A copy that shares what is large, and nothing that an epoch may shuffle in place."""
    return _Copier().of(sampler)


class _Copier:
    """Copies samplers and their lists of numbers. Samples that are among them are shared: no epoch changes one."""

    def __init__(self) -> None:
        self._room = MOST

    def of(self, sampler: Any) -> Any:
        ours = copy.copy(sampler)
        for name, value in vars(sampler).items():
            vars(ours)[name] = self._own(value)
        return ours

    def _own(self, value: Any) -> Any:
        if isinstance(value, torch.Generator):
            generator = torch.Generator(device=value.device)
            generator.set_state(value.get_state())
            return generator
        if isinstance(value, random.Random) or type(value).__module__.startswith("numpy.random"):
            return copy.deepcopy(value)
        if isinstance(value, Sampler):
            return self.of(value)
        if isinstance(value, torch.Tensor):
            return value.clone() if self._is_order(value.dim(), value.numel()) else value
        if type(value).__name__ == "ndarray":
            return value.copy() if self._is_order(value.ndim, value.size) else value
        if type(value) in (list, set, dict):
            self._take(len(value))
        if type(value) is dict:
            return {key: self._own(one) for key, one in value.items()}
        if type(value) in (list, set):
            return type(value)(one if type(one) is dict else self._own(one) for one in value)
        return value

    def _is_order(self, dims: int, count: int) -> bool:
        """Places of samples stand in a line; pictures do not."""
        if dims == 1:
            self._take(count)
        return dims == 1

    def _take(self, count: int) -> None:
        self._room -= count
        if self._room < 0:
            raise ValueError("too large to be copied")
