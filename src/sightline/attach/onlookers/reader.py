"""Of a model whose parts are called one by one: the call that is given the data, and not what another part made."""

from __future__ import annotations

import weakref

from torch import nn

from sightline.attach.onlookers.onlooker import Recording
from sightline.guard.probes.call import Call


class Reader:
    """Knows which parts begin a turn, a backward pass or a batch that is judged, and with which it ends."""

    def __init__(self, recorder: Recording) -> None:
        self._recorder = recorder
        self._ends: weakref.WeakKeyDictionary[nn.Module, weakref.ref[nn.Module]] = weakref.WeakKeyDictionary()
        self._open = True  # the next call of such a part begins a turn
        self._before: weakref.ref[nn.Module] | None = None  # the part that was judged last

    def trains(self, call: Call) -> Call:
        """Of the calls of which the loss is made, `call` is the last."""
        self._open, first = True, self._recorder.opened
        if first is None:
            return call
        self._ends[first.model] = weakref.ref(call.model)
        return first

    def judges(self, call: Call) -> Call | None:
        """An evaluation's; None where it goes on with what another call began."""
        if call.model is self._recorder.model or not self._ends:
            return call
        end, again = self._ends.get(call.model), self._before is not None and self._before() is call.model
        begins = end is not None and (self._open or again or end() is call.model)
        ended = any(one() is call.model for one in self._ends.values())
        self._open, self._before = ended or (self._open and not begins), weakref.ref(call.model)
        return call if begins else None
