"""Averages of weights that are computed and dropped: `slow = 0.9 * slow + 0.1 * fast` where a loop binds its name anew.

A teacher, a target or an average that should follow the weights stays as it was copied. That it does is no proof: a
copy may be kept on purpose. So, for a few steps, what is computed between an optimizer's step and the next forward
pass is listened to. Who computes for each parameter of a network a new value of itself and of one that an optimizer
moves, does nothing with it and lets go of it, meant to write it. Modes of torch are a stack: ours is put on an empty
one alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import TorchFunctionMode

from sightline.attach.alive import modules_alive
from sightline.attach.hook import Hook
from sightline.attach.origins import ORIGINS
from sightline.attach.script.again import alike, few
from sightline.attach.script.heap import outermost
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import HiddenSeen
from sightline.guard.probes.call import Call

STEPS = (6, 7, 8)  # of the model that learns, after which is listened
LOOKS = 12  # in all: networks that take turns have theirs
MOST = 4096  # parameters of others


class Computing(TorchFunctionMode):
    """Tells of what is computed, and changes nothing."""

    def __init__(self, told: Callable[[Any, Any], None]) -> None:
        super().__init__()
        self._told = told

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Any call of torch's."""
        result = func(*args, **(kwargs or {}))
        self._told((*args, *(kwargs or {}).values()), result)
        return result


@dataclass(frozen=True, slots=True)
class Mark:
    """What a tensor was made of: parameters at rest, by their places, and whether one that an optimizer moves."""

    tensor: weakref.ref[Tensor]
    rest: frozenset[int]
    moving: bool

    @property
    def whole(self) -> bool:
        """Whether it is a new value of one parameter."""
        return self.moving and len(self.rest) == 1


@dataclass(eq=False)
class Look:
    """What is computed after one step. `resting`: parameters that no optimizer holds; `known`: by where values are."""

    resting: list[nn.Parameter]
    known: dict[int, Mark]
    made: dict[int, Mark] = field(default_factory=dict)  # by id
    wholes: list[Mark] = field(default_factory=list)
    used: set[int] = field(default_factory=set)  # places of which a new value was put to some use

    def computed(self, given: Any, result: Any) -> None:
        """One call of torch's."""
        marks = [mark for tensor in _tensors(given) if (mark := self._of(tensor)) is not None]
        for mark in marks:
            if mark.whole:
                self.used |= mark.rest
        if marks and type(result) is Tensor and not any(result is one for one in _tensors(given)):
            rest = frozenset[int]().union(*(mark.rest for mark in marks))
            moving = any(mark.moving for mark in marks) and all(result.shape == self.resting[at].shape for at in rest)
            mark = self.made[id(result)] = Mark(weakref.ref(result), rest, moving)
            if mark.whole:
                self.wholes.append(mark)

    def _of(self, tensor: Tensor) -> Mark | None:
        mark = self.made.get(id(tensor))
        if mark is not None and mark.tensor() is tensor:
            return mark
        known = self.known.get(tensor.data_ptr())
        return known if known is not None and type(tensor) in (Tensor, nn.Parameter) else None

    def dropped(self) -> list[nn.Parameter]:
        """Those of which a new value was made that nobody used, and nobody has."""
        kept = {at for mark in self.wholes if mark.tensor() is not None for at in mark.rest}
        return [self.resting[at] for at in {at for mark in self.wholes for at in mark.rest} - kept - self.used]


class Begins:
    """Listens to a model: its next forward pass ends what is listened to."""

    def __init__(self, ends: Callable[[], None]) -> None:
        self._ends = ends

    def begins(self) -> None:
        """It comes next."""
        self._ends()

    def woke(self) -> None:
        """Nothing is open."""

    def trained(self, call: Call, output: Any) -> None:
        """It is over."""

    def stepping(self) -> None:
        """Nothing is open any more."""

    def stepped(self) -> None:
        """Whoever listens is told by torch."""

    def close(self) -> None:
        """The run is over."""
        self._ends()


class Rebound:
    """Listens after a few steps. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models, self._looks = models, LOOKS
        self._hook = lambda act: Hook(act, lambda error: fault(f"rebound: {type(error).__name__}: {error}"))
        self._ends = self._hook(self._end)
        self._mode: Computing | None = None
        self._look: Look | None = None
        self._one: Watched | None = None
        self._found: dict[int, tuple[weakref.ref[nn.Parameter], Tensor]] = {}  # dropped at each look; their values
        self._times = 0

    def install(self) -> None:
        """Notice from now on which optimizers step."""
        self._models.entering.append(self._hook(self._enters))
        self._models.before.append(lambda _: self._ends() if self._mode is not None else None)
        register_optimizer_step_post_hook(self._hook(self._stepped))

    def _enters(self, one: Watched) -> None:
        if self._looks:
            one.recorder.beside.all = (*one.recorder.beside.all, Begins(self._ends))

    def _stepped(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """An optimizer has stepped: what is computed until the next forward pass?"""
        if not self._looks:  # torch goes through its hooks just now: none may be taken away
            return
        live = (one for one in self._models.live if any(optimizer is known for known in one.recorder.optimizers))
        one = next(live, None)
        if one is None or self._mode is not None or (self._one or one) is not one or one.recorder.step not in STEPS:
            return
        if one.blind:  # nobody tells when its next forward pass comes
            return
        self._looks -= 1
        if one.recorder.asleep or torch._C._len_torch_function_stack() or not (resting := _resting()):
            return
        places = {p.data_ptr(): Mark(weakref.ref(p), frozenset((at,)), False) for at, p in enumerate(resting)}
        for group in optimizer.param_groups:
            places.update((p.data_ptr(), Mark(weakref.ref(p), frozenset(), True)) for p in group["params"])
        self._one, self._look = one, Look(resting, places)
        self._mode = Computing(self._hook(self._look.computed))
        self._mode.__enter__()

    def _end(self) -> None:
        """Leave torch alone, as soon as what the script has put above is gone."""
        top = torch._C._len_torch_function_stack() - 1
        if self._mode is None or top < 0 or torch._C._get_function_stack_at(top) is not self._mode:
            return
        self._mode.__exit__(None, None, None)
        look, one, self._mode, self._look = self._look, self._one, None, None
        if look is not None and one is not None:
            self._judge(look.dropped(), one)

    def _judge(self, dropped: list[nn.Parameter], one: Watched) -> None:
        """Once more the same ones, and still as they were?"""
        now = {id(p): (weakref.ref(p), few(p)) for p in dropped}
        before = self._found if self._times else now
        same = {key: seen for key, seen in now.items() if key in before and alike(before[key][1], seen[1])}
        self._found, self._times = same, self._times + 1 if same else 0
        if not same:
            self._one = None
        elif self._times == len(STEPS):
            self._looks = 0
            owners = [m for m in modules_alive() if (own := list(m.parameters())) and all(id(p) in same for p in own)]
            names = tuple(type(owner).__name__ for owner in outermost(owners))
            if names and one.attachment is not None:
                numel = sum(p.numel() for ref, _ in same.values() if (p := ref()) is not None)
                one.attachment.show(HiddenSeen(one.recorder.step, names, len(same), numel, 0, 0.0, dropped=True))


def _resting() -> list[nn.Parameter]:
    """What no optimizer holds of all modules there are."""
    own = {id(p): p for module in modules_alive() for p in module.__dict__["_parameters"].values() if p is not None}
    return [p for p in own.values() if type(p) is nn.Parameter and p.numel() and not ORIGINS.optimized(p)][:MOST]


def _tensors(given: Any) -> Iterator[Tensor]:
    """Those among a call's arguments, and in lists of them."""
    for value in given:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from (one for one in value if isinstance(one, Tensor))
