"""Outputs and targets whose shapes make pairs of all samples: (n, 1) beside (n,) in a loss gives (n, n).

The graph under a loss shows where it comes about: down from the loss, sums, means and functions of single numbers lead
to one operation that was given the outputs' shape and makes the pairs', with nothing but a constant of the other shape
beside them. Who compares all pairs on purpose sorts, normalises or picks among them, has outputs on both sides, or put
the new dimension there himself. What the graph does not keep, the gradient of the pairs tells: if each column stands
for one number, the gradients of all rows have the columns in one order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from sightline.attach.graph import nodes
from sightline.attach.open_step import OpenStep
from sightline.attach.recorder import Recorder
from sightline.guard.evidence import CrossedSeen
from sightline.guard.probes.fields import leaves

_LINES = "Add Sub Rsub Neg Mul Div Clone ToCopy View UnsafeView Squeeze Unsqueeze Sum Mean"
_SINGLE = """Abs Pow Where MaskedFill Clamp ClampMin ClampMax Maximum Minimum Log Log1P Log2 Exp Expm1 Sqrt Tanh Cosh
Sigmoid LogSigmoid Softplus Relu LeakyRelu Elu Hardtanh Threshold Atan"""
LINEAR = frozenset(_LINES.split())
LOSSES = frozenset(("HuberLoss", "SmoothL1Loss", "MseLoss"))
SINGLE = LINEAR | LOSSES | frozenset(_SINGLE.split())  # numbers become numbers, each for itself
SUMS = frozenset(("Sum", "Mean", "LinalgVectorNorm", "Norm"))
CHOICES = {"Where": "condition", "MaskedFill": "mask"}  # by what each keeps
SHAPED = frozenset(("View", "UnsafeView", "Unsqueeze", "AsStrided", "Permute", "Expand"))  # may put a dimension there
LEAST = 8  # samples: fewer may be channels or classes
MANY = 256  # of the nodes under a loss
FROM = 8  # steps up to which every one is looked at; later the measured ones
LOOKS = 3  # batches that showed it, with targets that differ
DIFFER = 1e-3  # of the largest target, or gradient
ROUNDED = 1e-4  # of the largest gradient: sums in float32 leave 1e-6
WIDE, PLACES = 128, 8  # rows and columns of the pairs, and places of an image, that are compared
Shape = tuple[int, ...]


class Deliberate(Exception):
    """The graph has pairs that may be meant."""


@dataclass(slots=True)
class Meeting:
    """Where outputs meet the values of all samples: shapes of the outputs and of the pairs, the outputs' `axis` of
    these, what made them, and each operation with the values, None where it kept none."""

    given: Shape
    made: Shape
    axis: int
    outputs: Any = None
    nodes: list[tuple[Any, Tensor | None]] = field(default_factory=list)

    @property
    def other(self) -> Shape:
        """The shape of what the outputs meet."""
        return self.made[1:] if self.axis == 0 else (self.made[0], 1, *self.made[2:])


class Crossed:
    """Looks at the losses of models that are awake. `hook`: wraps what torch calls, for errors of our own."""

    def __init__(self, hook: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._hook = hook
        self._looks: WeakKeyDictionary[Recorder, set[int]] = WeakKeyDictionary()  # steps that showed it
        self._over: WeakKeyDictionary[Recorder, bool] = WeakKeyDictionary()

    def look(self, root: Tensor, live: Sequence[tuple[Recorder, OpenStep | None]]) -> None:
        """A backward pass begins from `root`, of one of these models in the steps that they are in."""
        looking = [r for r, s in live if s and r not in self._over and (s.measured or r.step < FROM)]
        found = meeting(root.grad_fn) if looking else None
        if found is None:
            return
        for recorder in looking:
            if _of_samples(found.made[0], recorder) and (len(live) == 1 or _holds(recorder.model, found.outputs)):
                self._listen(recorder, found)
                return

    def _listen(self, recorder: Recorder, found: Meeting) -> None:
        for node, kept in found.nodes:
            if kept is not None and _kind(node) in LOSSES:
                self._post(torch.stack([torch.zeros_like(gap := _apart(kept)), gap]), recorder, found)
            else:
                node.register_prehook(self._hook(self._ear(kept, recorder, found)))

    def _ear(self, kept: Tensor | None, recorder: Recorder, found: Meeting) -> Callable[[Any], None]:
        def came(grads: Any) -> None:
            grad = grads[0] if grads else None
            if isinstance(grad, Tensor) and grad.shape == found.made and not recorder.muted:
                with torch.no_grad(), recorder.pace:
                    self._post(order(grad.detach(), found.axis, kept), recorder, found)

        return came

    def _post(self, answer: Tensor, recorder: Recorder, found: Meeting) -> None:
        number = recorder.step

        def arrived(values: list[Tensor]) -> None:
            beside, apart = values[0].tolist()
            if not beside <= ROUNDED:
                self._over[recorder] = True
            if recorder in self._over or apart <= DIFFER:
                return
            looks = self._looks.setdefault(recorder, set())
            looks.add(number)
            if len(looks) == LOOKS:
                self._over[recorder] = True
                recorder.offer(CrossedSeen(recorder.step, found.given, found.other, found.made))

        recorder.mailbox.post([answer], arrived)


def order(grad: Tensor, axis: int, kept: Tensor | None) -> Tensor:
    """(2,): how far the columns of `grad` are from one order in all rows, over its largest; how far they are apart.

    With `kept`, the values (n, ...) of the columns, a row may have them from the least to the largest or the reverse.
    """
    some = torch.linspace(0, len(grad) - 1, min(len(grad), WIDE), device=grad.device).long()
    table = grad.movedim(axis, 0)[some][:, some].reshape(len(some), len(some), -1)
    skip = max(1, table.shape[2] // PLACES)
    table = table[:, :, ::skip].double()
    value = table.sum(0) if kept is None else kept[some].reshape(len(some), -1)[:, ::skip]
    places = value.argsort(dim=0, stable=True).expand(len(some), -1, -1)
    steps = table.gather(1, places).diff(dim=1)
    up, down = steps.clamp(min=0).amax(1), (-steps).clamp(min=0).amax(1)
    largest = table.abs().amax().clamp(min=1e-30)
    beside = (down if kept is None else torch.minimum(up, down)).amax() / largest
    return torch.stack([beside, up.amax() / largest if kept is None else _apart(kept)]).float()


def _apart(values: Tensor) -> Tensor:
    """How far the values of samples are apart at most, over the largest; 0-dim."""
    flat = values.detach().double()
    return (flat.amax(0) - flat.amin(0)).amax() / flat.abs().amax().clamp(min=1e-30)


def meeting(root: Any) -> Meeting | None:
    """Where a loss that begins at `root` compares each output with the values of all samples, if not on purpose."""
    try:
        search = _Search(root)
    except (Deliberate, RuntimeError):  # what a node kept may be gone
        return None
    found = search.found
    if found is None or not found.nodes:
        return None
    dense = [t for t in search.beside if t.dim() == len(found.made) and t.shape[found.axis] > 1]
    return None if any(t.stride(found.axis) for t in dense) else found


class _Search:
    """Goes down from a loss. With each node: whether it is under a function that is no line (`curved`), under a sum
    of which such a function was taken (`bent`), and under what becomes pairs (`below`)."""

    def __init__(self, root: Any) -> None:
        self.found: Meeting | None = None
        self.beside: list[Tensor] = []  # constants that pairs are combined with
        self._open: list[tuple[Any, bool, bool, bool]] = [(root, False, False, False)]
        seen: set[tuple[Any, bool, bool, bool]] = set()
        while self._open:
            place = self._open.pop()
            if place not in seen:
                seen.add(place)
                self._visit(*place)
            if len(seen) > MANY:
                raise Deliberate

    def _visit(self, node: Any, curved: bool, bent: bool, below: bool) -> None:
        kind, shape = _kind(node), _shape(node)
        if shape is None:
            return
        behind = [n for n, _ in node.next_functions if n is not None]
        made = shape if _pairs(shape) else None
        if made is None and kind in LOSSES:
            made = next((s for n in behind if _pairs(s := _shape(n))), None)
        one, known = math.prod(shape) == 1, kind in SINGLE or kind in SUMS
        if made is None and not known and not one:
            return
        if made is not None and (bent or below or not known):
            raise Deliberate
        bent |= curved and kind in SUMS
        curved |= not one and (kind not in LINEAR or (kind in ("Mul", "Div") and len(behind) > 1))
        if made is not None and kind not in SUMS:
            self._meet(node, made, curved, bent)
            return
        if kind not in SUMS and any(_pairs(_shape(n)) for n in behind):
            raise Deliberate
        self._open += [(n, curved, bent, below) for n in behind]

    def _meet(self, node: Any, made: Shape, curved: bool, bent: bool) -> None:
        """An operation on pairs: go on with what is pairs already, and note what becomes them here."""
        kind, whole, given = _kind(node), False, False
        for inner in (_before_expanded(n, made) for n, _ in node.next_functions if n is not None):
            shape = _shape(inner)
            if shape == made:
                whole = True
                self._open.append((inner, curved, bent, False))
            elif shape is not None and math.prod(shape) == 1:
                self._open.append((inner, False, False, False))
            else:
                given = True
                self._take(inner, shape, made)
                self._open.append((inner, False, False, True))
        constants = [getattr(node, f"_saved_{n}") for n in _constants(node, kind)]
        if not given and kind not in CHOICES:  # which may hang on the pairs
            self.beside += [t.detach() for t in constants if isinstance(t, Tensor)]
        elif given and not whole:
            assert self.found is not None
            self.found.nodes.append((node, self._values(kind, constants, made)))

    def _take(self, inner: Any, shape: Shape | None, made: Shape) -> None:
        """These are the outputs."""
        axis = 0 if shape == (made[0], 1, *made[2:]) else 1 if shape == made[1:] else None
        behind = [_shape(n) for n, _ in inner.next_functions if n is not None]
        added = _kind(inner) in SHAPED and any(s is None or len(s) < len(shape or ()) for s in behind)
        if axis is None or shape is None or added or not inner.next_functions:
            raise Deliberate
        if self.found is None:
            self.found = Meeting(shape, made, axis, inner)
        elif (self.found.made, self.found.axis) != (made, axis):
            raise Deliberate

    def _values(self, kind: str, constants: list[Any], made: Shape) -> Tensor | None:
        """(n, ...) those that the outputs meet, where the operation kept them."""
        assert self.found is not None
        if kind in ("Add", "Sub", "Rsub"):
            return None
        if len(constants) != 1 or not isinstance(constants[0], Tensor) or constants[0].dim() > len(made):
            raise Deliberate
        values, axis = constants[0].detach(), self.found.axis
        values = values.reshape((1,) * (len(made) - values.dim()) + tuple(values.shape))
        if (values.shape[axis] > 1 and values.stride(axis)) or values.shape[1 - axis] != made[0]:
            raise Deliberate
        return values.select(axis, 0).expand(made[0], *made[2:])


def _constants(node: Any, kind: str) -> list[str]:
    """The names by which an operation keeps what does not learn."""
    behind = [n for n, _ in node.next_functions]
    if kind in CHOICES:
        return [CHOICES[kind]]
    if kind in LOSSES:
        return ["target"] if behind[1:] == [None] else []
    names = ("self", "other") if kind in ("Mul", "Div", "Maximum", "Minimum") else ()
    return [name for name, n in zip(names, behind, strict=False) if n is None]


def _before_expanded(node: Any, made: Shape) -> Any:
    """A loss function of torch expands its arguments itself."""
    return node.next_functions[0][0] if _kind(node) == "Expand" and _shape(node) == made else node


def _kind(node: Any) -> str:
    return re.sub(r"Backward\d*$", "", type(node).__name__)


def _shape(node: Any) -> Shape | None:
    """Of the first tensor that a node made."""
    made = getattr(node, "_input_metadata", None)
    return tuple(made[0].shape) if made else None


def _pairs(shape: Shape | None) -> bool:
    return shape is not None and len(shape) > 1 and shape[0] == shape[1] >= LEAST


def _of_samples(count: int, recorder: Recorder) -> bool:
    """Whether the model was given so many."""
    call = recorder.last_call
    return call is not None and any(t.dim() and len(t) == count for t in leaves(call.args, call.kwargs).values())


def _holds(model: nn.Module, node: Any) -> bool:
    """Whether the nearest parameter under `node` is one of the model's."""
    leaf = next((one.variable for one in nodes([node], most=MANY) if getattr(one, "variable", None) is not None), None)
    return any(p is leaf for p in model.parameters())
