"""A loop that takes the first sample of each batch, and leaves the rest: `x[0]`, from a time of one sample a batch.

The tensor that the model is given is a view of the loader's, of all that stands at place 0 of it, batch after batch.
"""

from __future__ import annotations

from typing import Any, ClassVar
from weakref import ref

from torch import Tensor

from sightline.attach.feed import Feed
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import CollatedSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves

BATCHES = 16  # of which nothing but the first sample was seen to be used


class FirstAlone(Onlooker):
    """Looks at training forwards until one is given more, or enough are not. Loaders are known to scripts alone."""

    shows: ClassVar = ("CollatedSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._batches, self._over = 0, False
        self._last: Any = None  # the batch before, by a weak reference

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Is what the model is given the first of a batch?"""
        if self._over or not training:
            return
        given = next((one for one in leaves(call.args, call.kwargs).values() if one.dim()), None)
        whole = given._base if given is not None else None
        if (feed := Feed.last()) is None and whole is not None and Feed.source is not None:
            return  # no batch was noticed yet
        size = feed.loader.batch_size if feed is not None else None
        if not size or given is None or whole is None or not _first(given, whole, size):
            self._over = True
            return
        if self._last is None or self._last() is not whole:
            self._batches += len(whole) == size
            self._last = ref(whole)
        if self._batches == BATCHES:
            self._over = True
            self.recorder.offer(CollatedSeen(self.recorder.step, size, of_one=True, by="the training loop"))


def _first(given: Tensor, whole: Tensor, size: int) -> bool:
    """Whether `given` is `whole[0]`, of a batch of more than one."""
    alike = whole.shape[1:] == given.shape and whole.stride()[1:] == given.stride()
    at_first = whole.storage_offset() == given.storage_offset()
    return alike and at_first and 1 < len(whole) <= size and not whole.requires_grad
