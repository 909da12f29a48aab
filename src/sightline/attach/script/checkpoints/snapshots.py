"""States that were kept amid training and hold the model's own memory, so that they go on training with it.

`{name: v.detach().cpu() for name, v in model.state_dict().items()}` copies nothing where the model is on the CPU. What
is still there of a state when the next step begins was kept; Python's objects are looked through for it then. Told at
the end: a state that was kept from before training, or is used again and again, is meant to follow the weights.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.hook import Hook
from sightline.attach.script.checkpoints.contents import address, tensors
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import RoundTripSeen

FREE, SHARE = 1.0, 0.005  # seconds of looking through the heap that are always given, and then of the run
FIRST = 4  # values of a dictionary that are looked at: a state of a model holds nothing but tensors
FEWEST = 2  # tensors of a state


@dataclass(eq=False)
class Follower:
    """A tensor that is the memory of `parameter`. `version`: how often that had been written to when it was kept."""

    itself: weakref.ref[Tensor]
    parameter: weakref.ref[Tensor]
    version: int
    one: Watched
    step: int
    kept: bool  # amid training, and not before it

    @property
    def stale(self) -> bool:
        """Whether it went on training."""
        live = self.parameter()
        return self.kept and live is not None and live._version > self.version


@dataclass(eq=False)
class Use:
    """What a state was saved or loaded for, once its model had trained on. `steps`: each that it was used at."""

    first: Follower
    path: str
    loaded: bool
    stale: int
    of: int
    steps: set[int] = field(default_factory=set)


class Snapshots:
    """Follows them from the step after they were kept to their use. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._known: dict[int, Follower] = {}
        self._uses: dict[int, Use] = {}
        self._based: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._open, self._spent, self._began = 0, 0.0, time.perf_counter()
        self._collected: list[int] = []
        models.before.append(Hook(self._stepping, lambda error: fault(f"snapshot: {type(error).__name__}: {error}")))
        models.ending.append(self._ending)
        models.attention.needs.append(lambda: self._open > 0)

    def made(self, module: nn.Module, state: Mapping[str, Any]) -> None:
        """The script asked `module` for its state, which it is about to be given."""
        mine = {id(p) for p in module.parameters()}
        those = [o for o in self._models.live if o.recorder.step and _among(o, mine)]
        if not those:
            return
        if not self._open:
            self._collected = _collections()
        self._open += 1
        if any(one.recorder.model not in self._based for one in those):  # what is there already is from before
            self._look([thing for thing in gc.get_objects() if thing is not state], kept=False)
            self._based.update(one.recorder.model for one in those)
        self._models.attention.listen()

    def _stepping(self, optimizer: Optimizer) -> None:
        """The first step since then: what is there was kept. Before an optimizer's first one, nothing was trained."""
        began, still = optimizer not in self._stepped, self._open > 0
        if began:
            self._stepped.add(optimizer)
        self._open = 0
        if still and self._collected == _collections():
            self._look([*gc.get_objects(0), *gc.get_objects(1)], kept=not began)  # what is younger than that is there
        elif still and self._spent <= max(FREE, SHARE * (time.perf_counter() - self._began)):
            self._look(gc.get_objects(), kept=not began)

    def _look(self, objects: list[Any], *, kept: bool) -> None:
        start = time.thread_time()
        self._known = {key: one for key, one in self._known.items() if one.itself() is not None}
        live = {
            p.data_ptr(): (one, p)
            for one in self._models.live
            for p in one.recorder.model.parameters()
            if p.requires_grad and p.numel() and not p.is_inference()
        }
        for state in _states_in(objects):
            found = [(v, *live[at]) for v in state if (at := address(v)) in live and v is not live[at][1]]
            for value, one, p in found if len(found) >= min(FEWEST, len(live)) else ():
                if id(value) not in self._known and value.numel() == p.numel():
                    itself, step = weakref.ref(value), one.recorder.step
                    self._known[id(value)] = Follower(itself, weakref.ref(p), p._version, one, step, kept)
        self._spent += time.thread_time() - start

    def saved(self, what: Any, path: str) -> None:
        """Something was saved: it may be, or hold, a state that was kept."""
        every = [*tensors(what)]
        self._used(every, path, loaded=False)
        mine = {p.data_ptr() for one in self._models.live for p in one.recorder.model.parameters()} if every else set()
        if self._open and any(address(value) in mine for value in every):
            self._open = max(0, self._open - 1)  # that was what the state was asked for

    def loads(self, values: Sequence[Any]) -> None:
        """A module is given these."""
        self._used(values, "", loaded=True)

    def written(self, tensor: Tensor) -> bool:
        """Whether this very tensor was kept and went on training."""
        known = self._follower(tensor)
        return known is not None and known.stale

    def _follower(self, value: Tensor) -> Follower | None:
        known = self._known.get(id(value))
        return known if known is not None and known.itself() is value else None

    def _used(self, values: Sequence[Any], path: str, *, loaded: bool) -> None:
        found = [f for value in values if (f := self._follower(value)) is not None]
        stale = [f for f in found if f.stale]
        if not stale or stale[0].one.attachment is None:
            return
        first = stale[0]
        use = Use(first, path, loaded, len(stale), len(found))
        self._uses.setdefault(id(first), use).steps.add(first.one.recorder.step)

    def _ending(self, which: Watched) -> None:
        """What was used at one step alone was to be what it had been. Until the very end there may be another."""
        for use in self._uses.values() if self._models.over else ():
            if use.first.one is which and len(use.steps) == 1 and which.attachment is not None:
                (step,), since = use.steps, use.first.step
                seen = RoundTripSeen(step, use.path, use.of, kept=use.stale, since=since, loaded=use.loaded)
                which.attachment.show(seen)


def _among(one: Watched, ids: set[int]) -> bool:
    return any(id(p) in ids for p in one.recorder.model.parameters())


def _collections() -> list[int]:
    """How often Python went through all but its youngest objects, and called those old that it found."""
    return [generation["collections"] for generation in gc.get_stats()[1:]]


def _states_in(objects: list[Any]) -> Iterator[list[Tensor]]:
    """The tensors of each dictionary that begins with some."""
    for thing in objects:
        if issubclass(type(thing), dict) and dict.__len__(thing) > 0:
            values = dict.values(thing)
            if any(type(value) is Tensor for value, _ in zip(values, range(FIRST), strict=False)):
                yield [value for value in list(values) if type(value) is Tensor]
