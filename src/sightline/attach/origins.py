"""Where the values of a parameter come from: an initialiser, a state that was loaded, or an optimizer of this process.

Told by the values themselves, so that it holds for whatever object they are in: what an initialiser drew is known
again by eight of its numbers, and is no longer what it was once anything wrote to it. Nobody's memory is kept.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sightline.guard.evidence.setup import Placed

SAMPLE = 8  # numbers that are compared: 8 x 23 random bits are never drawn twice
SMALLEST = 2 * SAMPLE  # elements of a tensor that is told apart at all
MATRICES, FEW = 1024, 4  # whose numbers stand for a model's, and how many of each
Sample = tuple[float, ...]
MOSTLY = 0.7  # of a state's matrices: those who draw the last layers anew keep a third, or more
MOST = 1 << 17  # tensors remembered: more are made by programs that make modules in a loop, and then nothing is told


@dataclass(slots=True)
class State:
    """What was loaded as one. `makers`: the modules whose constructors had it loaded; `drawn`: ids of what these drew
    anew after that."""

    makers: list[weakref.ref[nn.Module]]
    matrices: int
    drawn: set[int] = field(default_factory=set)


class Origins:
    """What is known of this process. Without anybody who tells, nothing is fresh and nothing is given."""

    def __init__(self) -> None:
        self._drawn: set[Sample] = set()
        self._begun: set[Sample] = set()
        self._loaded: dict[int, weakref.ref[Tensor]] = {}
        self._held: dict[int, tuple[weakref.ref[Tensor], Sample]] = {}
        self._asked: dict[int, tuple[weakref.ref[Tensor], Sample | None]] = {}
        self._grown: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}
        self._rested: dict[int, tuple[weakref.ref[Tensor], Placed]] = {}
        self._states: dict[int, State] = {}
        self._groups, self._noted, self._froze = 0, 0, dict[int, weakref.ref[Tensor]]()

    def drawn(self, tensor: object) -> None:
        """An initialiser has just filled `tensor` with random numbers."""
        if isinstance(tensor, Tensor) and len(self._drawn) < MOST and (sample := _sample(tensor)) is not None:
            self._drawn.add(sample)
            state = self._states.get(id(tensor)) if _is(self._loaded, tensor) else None
            if state is not None and any(ref() is one for ref in state.makers for one in _made()):
                state.drawn.add(id(tensor))

    def loaded(self, tensors: Iterable[Tensor]) -> None:
        """A state was loaded into `tensors`."""
        if len(self._loaded) > MOST:
            self._loaded = {key: ref for key, ref in self._loaded.items() if ref() is not None}
            self._states = {key: state for key, state in self._states.items() if key in self._loaded}
        came = {id(tensor): weakref.ref(tensor) for tensor in tensors}
        self._loaded.update(came)
        state = State(
            [weakref.ref(maker) for maker in _made()],
            sum((one := ref()) is not None and one.dim() > 1 for ref in came.values()),
        )
        self._states.update(dict.fromkeys(came, state))

    def undone(self, parameter: Tensor) -> bool:
        """Whether it was loaded, and drawn anew by the end of the constructor that had it loaded.

        With most of its state: to draw the last layers anew is a way of fine-tuning.
        """
        state = self._states.get(id(parameter)) if _is(self._loaded, parameter) else None
        if state is None or id(parameter) not in state.drawn or len(state.drawn) <= MOSTLY * state.matrices:
            return False
        return self.fresh(parameter)

    def held(self, tensors: Iterable[Tensor]) -> None:
        """An optimizer was given these. What nobody was seen to load into them is what training began with."""
        self._groups += 1
        for tensor in tensors:
            sample = _sample(tensor)
            if not self.optimized(tensor):
                self._asked[id(tensor)] = weakref.ref(tensor), sample
            if len(self._held) > MOST or sample is None:
                continue
            if not _is(self._loaded, tensor):
                self._begun.add(sample)
                self._held.setdefault(id(tensor), (weakref.ref(tensor), sample))

    def frozen(self, tensors: Iterable[Tensor]) -> None:
        """These are all that is frozen, right after an optimizer was made."""
        if self._noted != self._groups:  # else some time has passed since
            self._noted, self._froze = self._groups, {id(tensor): weakref.ref(tensor) for tensor in tensors}

    def froze(self, tensor: Tensor) -> bool:
        """Whether it was frozen when the last optimizer of the process was given anything."""
        return self._noted == self._groups and _is(self._froze, tensor)

    def grown(self, table: Tensor, old: int) -> None:
        """A library has just made `table`, whose rows from `old` on are for new tokens, in place of a smaller one."""
        self._grown[id(table)] = weakref.ref(table), table.detach()[old:].clone()

    def new_rows(self, table: Tensor) -> int:
        """How many of its last rows are still as they were when it was enlarged for them."""
        ref, rows = self._grown.get(id(table), (None, table))
        if ref is None or ref() is not table or table.shape[1:] != rows.shape[1:]:
            return 0
        now = table.detach()[len(table) - len(rows) :]
        return len(rows) if torch.equal(now, rows.to(now.device, now.dtype)) else 0

    def adapted(self, model: nn.Module, placed: Placed) -> None:
        """Adapters are about to come into `model`, which has none."""
        frozen = [p for p in model.parameters() if not p.requires_grad]
        if len(frozen) < sum(1 for _ in model.parameters()):  # where all rest, none was chosen
            self._rested.update((id(p), (weakref.ref(p), placed)) for p in frozen)

    def rested(self, tensor: Tensor) -> Placed | None:
        """How adapters were placed that came when it was frozen, and others of its model were not."""
        ref, placed = self._rested.get(id(tensor), (None, None))
        return placed if ref is not None and ref() is tensor else None

    def optimized(self, tensor: Tensor) -> bool:
        """Whether any optimizer was ever given it."""
        known = self._asked.get(id(tensor))
        return known is not None and known[0]() is tensor

    def moved(self, parameter: Tensor) -> bool:
        """Whether it has other values than when an optimizer was first given it."""
        return self.optimized(parameter) and self._asked[id(parameter)][1] not in (None, _sample(parameter))

    def still(self, parameter: Tensor) -> bool:
        """Whether it has the values with which an optimizer was first given it."""
        sample = _sample(parameter)
        return self.optimized(parameter) and sample is not None and self._asked[id(parameter)][1] == sample

    def untrained(self, parameter: Tensor, trained: Tensor) -> bool:
        """Whether `trained` was, and `parameter` has what that began with, or what an initialiser drew."""
        if not self.moved(trained) or (sample := _sample(parameter)) is None:
            return False
        return sample == self._asked[id(trained)][1] or self.fresh(parameter)

    def fresh(self, parameter: Tensor) -> bool:
        """Whether its values are as an initialiser of this process drew them."""
        return self.listens and _sample(parameter) in self._drawn

    def began_anew(self, parameter: Tensor) -> bool:
        """Whether they are so, or were when an optimizer was first given it."""
        return self.fresh(parameter) or (self.optimized(parameter) and self._asked[id(parameter)][1] in self._drawn)

    @property
    def listens(self) -> bool:
        """Whether initialisers were heard, and all of them."""
        return 0 < len(self._drawn) < MOST

    def given(self, parameter: Tensor) -> bool:
        """Whether it was loaded, or trained in this process, and has other values than those that training began with.

        A copy of what was never trained (a target network, a stand-in for a checkpoint) is not.
        """
        sample = _sample(parameter)
        if sample is None or sample in self._drawn:
            return False
        ref, first = self._held.get(id(parameter), (None, None))
        trained = ref is not None and ref() is parameter and first != sample
        return trained or (_is(self._loaded, parameter) and sample not in self._begun)


def _is(known: dict[int, weakref.ref[Tensor]], tensor: Tensor) -> bool:
    ref = known.get(id(tensor))
    return ref is not None and ref() is tensor


def _made() -> list[nn.Module]:
    """The modules whose constructors are running."""
    found, frame = [], inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "__init__" and isinstance(one := frame.f_locals.get("self"), nn.Module):
            found.append(one)
        frame = frame.f_back
    return found


def values_of(model: nn.Module) -> Sample:
    """Some numbers of each of its matrices: others once anything wrote to these. () where they cannot be told."""
    every = [p for _, p in matrices(model)][:MATRICES]
    plain = all(type(p) is nn.Parameter and not p.is_meta for p in every)
    if not plain or len({p.device for p in every}) != 1:
        return ()
    flat = (p.detach().reshape(-1) for p in every)
    return tuple(torch.cat([one[:: max(1, len(one) // FEW)][:FEW].float() for one in flat]).tolist())


def matrices(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters of at least two dimensions: what can be random and matter."""
    return [(name, p) for name, p in model.named_parameters() if p.dim() > 1 and p.is_floating_point()]


def _sample(tensor: Tensor) -> Sample | None:
    """A few of its numbers, not the first ones (a padding token's row is zero). Reads its device: for set-up only."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.is_meta or tensor.numel() < SMALLEST:
        return None
    if not tensor.is_floating_point() or torch.compiler.is_compiling():
        return None
    flat = tensor.detach().reshape(-1)
    few: list[float] = flat[tensor.numel() // SMALLEST :: tensor.numel() // SAMPLE][:SAMPLE].tolist()
    return tuple(few)


ORIGINS = Origins()
