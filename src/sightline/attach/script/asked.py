"""Gradients that a script asks for by itself: `torch.autograd.grad`, `torch.func.grad`, and what it does with them.

Each such call names the tensors that it is for. They are known again at the next one by their places, be they the same
tensors, written to, or new ones put back for them. Those that follow their gradients twice are trained. The same
tensors are then heard as any that are moved by hand; of new ones we keep a stand-in, which points at the latest.

Inside `torch.func` nothing of a forward pass can be heard: there, and for tensors that are replaced, only steps are.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.overrides import is_tensor_like

from sightline.attach.open_step import Loss
from sightline.attach.script.again import alike, few
from sightline.attach.script.watch import Models

ALONG = 0.3  # cosine of movement and gradients, either way: momentum and Adam begin far above; chance gives 0.1
SIGNS, SOME = 0.5, 16  # where rounding lets few elements move: surplus of signs that agree; moved elements, at least
TWICE = 2  # times that it followed its gradients: once may be a coincidence
PASSES = 64  # calls for the same tensors until nobody looks any more
Door = tuple[Any, str, Callable[..., Any], Callable[..., Any]]  # where, its name there, torch's own, ours
KINDS = 16  # different sets of tensors that are told apart
MANY = 4096  # tensors of a call
WHY = "the steps were seen, and what moved in them; no forward pass is heard inside torch.func, or of tensors replaced"
DEAF = ("Setup", "BatchSeen", "OutputsSeen", "HeadSeen", "LossSeen", "EvaluationSeen", "SharedRowsSeen", "PaddingSeen")


@dataclass(frozen=True)
class Asked:
    """One call: place -> tensor and gradient, and the loss where it is known."""

    tensors: Mapping[str, Tensor]
    grads: Mapping[str, Tensor]
    loss: Tensor | None

    @property
    def kind(self) -> tuple[tuple[str, torch.Size], ...]:
        """What tells one set of tensors from another."""
        return tuple((place, tensor.shape) for place, tensor in self.tensors.items())


def doors(hear: Callable[..., Any]) -> list[Door]:
    """Where gradients are asked for. `hear` is given each call, what it was for once it has given them, and for what.

    ``hear(call, made, asked, own)`` returns what ``call()`` gives; ``made(given)`` is None where it cannot be told;
    `asked` holds the tensors that gradients are asked for, and `own` those that are the script's own variables.
    """
    found: list[Door] = []
    for name, valued in (("grad", False), ("grad_and_value", True)):
        transform = getattr(torch.func, name)
        found.append((torch.func, name, transform, transformed(transform, hear, valued=valued)))
    ask = torch.autograd.grad

    @functools.wraps(ask)
    def noticed(outputs: Any, inputs: Any, grad_outputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        def call() -> Any:
            return ask(outputs, inputs, grad_outputs, *args, **kwargs)

        if kwargs.get("create_graph") or any(args[1:2]) or is_tensor_like(inputs):  # to compute with, or one
            return call()
        inputs = inputs if isinstance(inputs, tuple | list) else tuple(inputs)  # what goes through them once
        own = {str(n): t for n, t in enumerate(inputs) if isinstance(t, Tensor)}
        root = outputs[0] if isinstance(outputs, tuple | list) and len(outputs) == 1 else outputs

        def made(given: Any) -> Asked | None:
            grads = {str(n): g for n, g in enumerate(given) if g is not None}
            return asked_for(own, grads, root if grad_outputs is None else None)

        return hear(call, made, inputs, own)

    return [*found, (torch.autograd, "grad", ask, noticed)]


def transformed(transform: Callable[..., Any], hear: Callable[..., Any], *, valued: bool) -> Callable[..., Any]:
    """`torch.func.grad` (or, `valued`, `grad_and_value`), whose functions are heard when they are called."""

    @functools.wraps(transform)
    def noticed(func: Callable[..., Any], argnums: int | tuple[int, ...] = 0, has_aux: bool = False) -> Any:
        inner = transform(func, argnums, has_aux)

        def made(asked: Any, given: Any) -> Asked | None:
            grads, loss = given, None
            if valued:
                grads, value = given
                loss = value[0] if has_aux else value
            elif has_aux:
                grads = given[0]
            return asked_for(dict(leaves(asked)), dict(leaves(grads)), loss)

        @functools.wraps(inner)
        def called(*args: Any, **kwargs: Any) -> Any:
            numbers = (argnums,) if isinstance(argnums, int) else argnums
            asked = [args[n] for n in numbers if n < len(args)]
            tree = asked[0] if isinstance(argnums, int) and asked else tuple(asked)
            return hear(lambda: inner(*args, **kwargs), functools.partial(made, tree), tree)

        return called

    return noticed


def asked_for(tensors: Mapping[str, Tensor], grads: Mapping[str, Tensor], loss: Any) -> Asked | None:
    """What a call was for; None where it is not one for the gradients of two plain tensors or more."""
    both = {place: t for place, t in tensors.items() if (g := grads.get(place)) is not None and g.shape == t.shape}
    if not 1 < len(both) <= MANY or not all(plain(t) and plain(grads[place]) for place, t in both.items()):
        return None
    known = loss.detach() if isinstance(loss, Tensor) and loss.numel() == 1 and plain(loss) else None
    return Asked({place: t.detach() for place, t in both.items()}, {p: grads[p].detach() for p in both}, known)


def plain(tensor: Any) -> bool:
    """A tensor that has values of its own: not one of a compiler's, nor one inside `vmap` or `grad`."""
    if type(tensor) not in (Tensor, nn.Parameter) or not tensor.is_floating_point() or tensor.layout != torch.strided:
        return False
    try:
        tensor.data_ptr()
    except RuntimeError:
        return False
    return not tensor.is_meta


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of dictionaries, lists and tuples by their places."""
    if isinstance(tree, Tensor):
        yield path or "0", tree
    elif isinstance(tree, Mapping):
        for key, part in tree.items():
            yield from leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(tree, tuple | list):
        for place, part in enumerate(tree):
            yield from leaves(part, f"{path}.{place}" if path else str(place))


@dataclass
class Place:
    """One tensor at the last call."""

    tensor: weakref.ref[Tensor]
    values: Tensor
    grads: Tensor


@dataclass
class Kind:
    """One set of tensors: how they stood at the last call, how often they were asked for, and followed."""

    before: dict[str, Place] = field(default_factory=dict)
    calls: int = 0
    followed: int = 0
    stand_in: StandIn | None = None
    done: bool = False


class Askings:
    """Follows the tensors that gradients are asked for. `take`: given tensors that stay, and are written to."""

    def __init__(self, models: Models, take: Callable[[Sequence[Tensor]], None]) -> None:
        self._models, self._take = models, take
        self._kinds: dict[Any, Kind] = {}

    def came(self, asked: Asked, originals: Mapping[str, Tensor]) -> None:
        """Gradients were asked for. `originals`: the script's own tensors at these places."""
        kind = self._kinds.get(asked.kind)
        if kind is None:
            if len(self._kinds) >= KINDS:
                return
            kind = self._kinds[asked.kind] = Kind()
        if kind.stand_in is not None:
            kind.stand_in.came(asked)
        elif not kind.done:
            self._look(kind, asked, originals)

    def _look(self, kind: Kind, asked: Asked, originals: Mapping[str, Tensor]) -> None:
        kind.calls += 1
        moved = _followed(kind.before, asked.tensors)
        kind.followed += bool(moved)
        own = {place: originals.get(place, tensor) for place, tensor in asked.tensors.items()}
        same = [
            t for place in moved if (t := own[place]) is kind.before[place].tensor() and t.is_leaf and t.requires_grad
        ]
        kind.before = {}
        if kind.followed >= TWICE and moved:
            kind.done = True
            if len(same) == len(moved):
                self._take(same)
            else:
                kind.stand_in = StandIn(self._models, asked)
        elif kind.calls < PASSES:
            kind.before = {
                place: Place(weakref.ref(own[place]), few(tensor), few(asked.grads[place]))
                for place, tensor in asked.tensors.items()
            }

    def sleeps(self, asked: Any) -> bool:
        """Whether the one stand-in that there is sleeps: then a step is counted by the first of its tensors alone."""
        found = [kind.stand_in for kind in self._kinds.values() if kind.stand_in is not None]
        first = next(leaves(asked), None)
        return len(found) == len(self._kinds) == 1 and first is not None and found[0].sleeps(first[1])

    def forget(self) -> None:
        """Nobody listens any more."""
        self._kinds = {}


def _followed(before: Mapping[str, Place], now: Mapping[str, Tensor]) -> list[str]:
    """The places whose values changed, if all of them together moved along their gradients, down or up."""
    moved, shift, pull = list[str](), list[Tensor](), list[Tensor]()
    for place, was in before.items():
        values = few(now[place])
        if values.dtype != was.values.dtype or values.device != was.values.device or alike(values, was.values):
            continue
        moved.append(place)
        shift.append((values - was.values).float().to("cpu"))
        pull.append(was.grads.float().to("cpu"))
    return moved if moved and along(torch.cat(shift), torch.cat(pull)) else []


def along(shift: Tensor, pull: Tensor) -> bool:
    """Whether what moved did so along its gradients, down or up."""
    if abs(float(torch.nn.functional.cosine_similarity(shift, pull, dim=0))) >= ALONG:
        return True
    signs = (shift.sign() * pull.sign())[shift != 0]
    return len(signs) >= SOME and abs(float(signs.mean())) >= SIGNS


class StandIn:
    """What stands for tensors that a script replaces, and for the optimizer that moves them."""

    def __init__(self, models: Models, asked: Asked) -> None:
        self._models, self._told = models, False
        module = type("Tensors", (nn.Module,), {})()
        parameters = {place: nn.Parameter(tensor) for place, tensor in asked.tensors.items()}  # of the same memory
        module.__dict__["_parameters"].update(parameters)
        self._places = parameters
        self.param_groups: list[dict[str, Any]] = [{"params": list(parameters.values()), "lr": None}]
        self.state: dict[Tensor, Any] = {}
        self._marks = self._of(asked)
        self._one = models.attach(module, [cast(Optimizer, self)], blind=True)
        for kind in DEAF:
            if self._one.attachment is not None:
                self._one.attachment.watch.absent(kind, WHY)
        self._one.recorder.step += TWICE
        self._one.recorder.begin()
        self._ready(asked)

    def came(self, asked: Asked) -> None:
        """Asked for again: a step was taken, if they are others, or were written to."""
        if self._one.attachment is None:
            return
        marks = self._of(asked)
        if marks != self._marks:
            self._marks = marks
            if not self._one.recorder.asleep:
                for place, tensor in asked.tensors.items():
                    self._places[place].data = tensor
            if self._told:
                self._told = False
                self._models.after_step(self, (), {})
        self._ready(asked)

    def sleeps(self, first: Tensor) -> bool:
        """Count a step while all are asleep. False if it is not, or wakes now."""
        if self._one.attachment is None or not self._one.recorder.asleep or not plain(first):
            return False
        mark = first.data_ptr(), first._version
        if mark != self._marks[0]:
            self._marks = [mark]
            if self._told:
                self._told = False
                self._models.after_step(self, (), {})
        self._told = self._told or self._one.recorder.asleep
        return self._one.recorder.asleep

    def _ready(self, asked: Asked) -> None:
        one, self._told = self._one, True
        step = one.recorder.open_step
        if one.recorder.asleep or step is None:
            return
        step.asked = True
        with torch.no_grad():
            one.recorder.backward.began(step, set(), None)
        if asked.loss is not None:
            step.hear(Loss.of(asked.loss))
        for place, grad in asked.grads.items():
            parameter = self._places[place]
            parameter.data = asked.tensors[place]
            parameter.grad = grad if grad.dtype == parameter.dtype else grad.to(parameter.dtype)
        one.recorder.gradients_ready(cast(Optimizer, self))
        for parameter in self._places.values():
            parameter.grad = None

    @staticmethod
    def _of(asked: Asked) -> list[tuple[int, int]]:
        return [(tensor.data_ptr(), tensor._version) for tensor in asked.tensors.values()]
