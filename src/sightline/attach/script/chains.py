"""Vision-language models in variables of their own: a vision tower, a projector and a language model, and no whole.

The optimizer holds what learns, a projector alone perhaps. What is frozen, and what its author forgot, is found by the
flow of the data: in the first steps, whose output is handed on to whom, until what reads gives the loss. These parts,
in the order of their calls, are watched as one model from the third step on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn, strided
from torch.optim import Optimizer

from sightline.attach.alive import modules_alive
from sightline.attach.graph import nodes
from sightline.attach.hook import Hook, unwrapped
from sightline.attach.script.heap import compiled_parts, joined, outermost
from sightline.attach.script.watch import Models, Watched
from sightline.attach.towers import reads, sees
from sightline.guard.probes.reach import tensors_of

DEEP = 4096  # nodes of a graph that are gone through from an input back to the output that it was made of
STEPS = 2  # what came before the first call of what learns is known from the second step on
TOWERS = {"vision", "language"}


@dataclass(frozen=True, slots=True)
class Link:
    """A call: of whom, and what it was given and gave. The tensors are kept for a step, so that no other takes their
    place in memory."""

    part: nn.Module
    given: list[Tensor]
    gave: list[Tensor]

    @property
    def graded(self) -> bool:
        """Whether what it gave carries a gradient."""
        return any(tensor.requires_grad for tensor in self.gave)

    def feeds(self, other: Link) -> bool:
        """Whether the other call was given what this one made, or a view of it, or what was computed from that."""
        mine = {tensor.untyped_storage().data_ptr() for tensor in self.gave}
        if any(tensor.untyped_storage().data_ptr() in mine for tensor in other.given):
            return True
        made = {tensor.grad_fn for tensor in self.gave} - {None}
        return bool(made) and any(node in made for node in nodes([t.grad_fn for t in other.given], most=DEEP))


@dataclass(eq=False)
class First:
    """The first steps of a model: the calls of its parts and of all that is no part of anything, of one at a time."""

    model: Watched
    steps: int = 0
    links: list[Link] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)

    def note(self, part: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Hook after a call."""
        recorder = self.model.recorder
        if recorder is not None and not recorder.muted:
            given, gave = (
                [one for thing in things for one in tensors_of(thing) if one.layout is strided]
                for things in ((args, kwargs), (output,))
            )
            self.links.append(Link(part, given, gave))

    def leave(self) -> None:
        """Hear no more."""
        for handle in self.handles:
            handle.remove()
        self.links = []

    def chain(self) -> list[nn.Module]:
        """The parts that the last call with gradients of a part that reads hangs on, and that part; [] for no VLM."""
        graded = [link for link in self.links if link.graded]
        if not graded or not reads(graded[-1].part):
            return []
        kept = [graded[-1]]
        for link in reversed(self.links[: self.links.index(graded[-1])]):
            if any(link.feeds(one) for one in kept):
                kept.append(link)
        parts = list(dict.fromkeys(link.part for link in reversed(kept)))
        return parts if len(parts) > 1 and sees(parts[0]) and not reads(parts[0]) else []


class Chains:
    """Finds them. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._known: list[First] = []
        self._fault = lambda error: fault(f"chain: {type(error).__name__}: {error}")
        models.entering.append(Hook(self._entering, self._fault))
        models.ending.append(Hook(self._ends, self._fault))
        models.before.append(Hook(self._before_step, self._fault))

    def _entering(self, model: Watched) -> None:
        """A model is watched from now on, and its first step begins."""
        known = model.recorder.towers.modules.keys()
        if model.adopted or model.blind or known >= {*TOWERS, *(["connector"] if model.parts is not None else [])}:
            return
        whole = model.recorder.model
        mine = list(whole.children()) if model.parts is not None else [whole]
        others = self._strangers(whole)
        every = [*mine, *others]
        if not any(sees(part) and not reads(part) for part in every) or not any(map(reads, every)):
            return
        first = First(model)
        hook = Hook(first.note, self._fault)
        first.handles = [part.register_forward_hook(hook, with_kwargs=True) for part in every]
        self._known.append(first)

    def _strangers(self, whole: nn.Module) -> Iterable[nn.Module]:
        """What has parameters, and is in no model that is watched, nor around one, nor in a compiled graph."""
        watched = [*whole.modules(), *(part for one in self._models.live for part in one.recorder.model.modules())]
        inside = {id(part) for part in watched}
        alive = [module for module in modules_alive() if any(True for _ in module.parameters())]
        graphs = {id(part) for module in alive for part in compiled_parts(module)}
        return [
            module
            for module in outermost(alive)
            if not any(id(part) in inside or id(part) in graphs for part in module.modules())
        ]

    def _ends(self, model: Watched) -> None:
        for one in [one for one in self._known if one.model is model]:
            self._known.remove(one)
            one.leave()

    def _before_step(self, optimizer: Optimizer) -> None:
        """A step is known. Only that of the model's own optimizer is one."""
        for one in [one for one in self._known if optimizer in one.model.optimizers]:
            parts, graded = one.chain(), {link.part for link in one.links if link.graded}
            one.links, one.steps = [], one.steps + 1
            if not parts and one.steps < STEPS:
                continue
            self._ends(one.model)
            if parts and one.model.attachment is not None and not _forgotten(parts, one.model.optimizers):
                self._widen(one.model, parts, [part for part in parts if part not in graded])

    def _widen(self, one: Watched, parts: list[nn.Module], silent: Iterable[nn.Module]) -> None:
        """Watch all `parts` in its place: what it has seen is a part of that."""
        assert one.attachment is not None
        one.attachment.mute()
        one.attachment = None
        self._models.watched.remove(one)
        new = self._models.attach(joined(parts), one.optimizers, blind=False, parts=parts)
        assert new.parts is not None
        new.parts.silent |= {unwrapped(part)[0] for part in silent}


def _forgotten(parts: Iterable[nn.Module], optimizers: Iterable[Optimizer]) -> bool:
    """Whether a whole tower could learn and is held by none of the optimizers: nobody says that it should."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    towers = [part for part in parts if reads(part) or sees(part)]
    return any(p.requires_grad and id(p) not in held for part in towers for p in part.parameters())
