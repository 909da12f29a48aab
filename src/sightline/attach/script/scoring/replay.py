"""Runs a script's evaluation once more, with the truth for what the model says: scores need no function of their own.

While the model is judged, some batches of the loader and what the model gave for them are kept, and which functions of
the script's were at work. Afterwards the innermost of them that returns a number is built anew (see `replica.py`), with
those batches for a loader and a list of answers for a model. So no module runs and no data is read.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, is_dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightline.attach.script.scoring.asking import alone
from sightline.attach.script.scoring.pairs import MOST, leaves
from sightline.attach.script.scoring.readings import reading
from sightline.attach.script.scoring.replica import Replica, Unsafe
from sightline.attach.script.scoring.verdict import Verdict, judged, numbers

DEPTH = 4  # functions of the script inside each other
PAIRS = 6  # of an output and what may be its labels
NUMBER, LONGEST = re.compile(r"(?<![\w.])-?\d+\.\d+(?:e[+-]?\d+)?(?![\w.])"), 2000  # of a text that is printed
BATCHES = 8  # that are kept


@dataclass(frozen=True)
class Place:
    """A function at work, and what it was called with."""

    code: CodeType
    namespace: Mapping[str, Any]
    free: Mapping[str, Any]
    values: Mapping[str, Any]
    line: int


@dataclass
class Recorded:
    """An evaluation as far as it is kept. `dataset`: of its loader. `told`: (batch, output)."""

    model: nn.Module
    dataset: Any
    places: list[Place]
    told: list[tuple[Any, Any]] = field(default_factory=list)
    size: int = 0
    odd: bool = False  # the model was called otherwise than once for each batch

    def add(self, batch: Any, dataset: Any, output: Any) -> None:
        """The model gave `output` for `batch`."""
        if batch is None or dataset is not self.dataset or (self.told and self.told[-1][0] is batch):
            self.odd = True
        if self.odd or len(self.told) >= BATCHES:
            return
        size = sum(leaf.numel() for leaf in (*leaves(batch), *leaves(output)) if isinstance(leaf, Tensor))
        if self.size + size <= MOST:
            self.size += size
            self.told.append((batch, output))


def places(frame: FrameType | None, own: Callable[[str], bool]) -> list[Place]:
    """The functions of the script that called `frame`, the innermost first."""
    found: list[Place] = []
    while frame is not None and len(found) < DEPTH:
        code = frame.f_code
        if own(code.co_filename) and not code.co_name.startswith("<"):
            seen = frame.f_locals
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            if all(name in seen for name in names) and not code.co_flags & 0x2AC:
                free = {name: seen[name] for name in code.co_freevars if name in seen}
                values = {name: seen[name] for name in names}
                found.append(Place(code, frame.f_globals, free, values, frame.f_lineno))
        frame = frame.f_back
    return found


class _Model:
    """Gives the answers that it was told to, in their order."""

    training = False

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self.device = torch.device("cpu")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.answers.pop(0)

    def eval(self) -> _Model:
        return self

    def train(self, mode: bool = True) -> _Model:
        return self

    def to(self, *args: Any) -> _Model:
        return self

    def parameters(self) -> Iterator[Tensor]:
        yield torch.zeros(1, device=self.device)


class _Rows:
    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count


class _Loader:
    """Gives the batches that it was told to."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.dataset, self.batch_size = _Rows(0), 0

    def __iter__(self) -> Iterator[Any]:
        return iter(list(self.batches))

    def __len__(self) -> int:
        return len(self.batches)


def replayed(record: Recorded, own: Callable[[str], bool], until: float) -> tuple[Place, Verdict] | None:
    """What the evaluation reads wrong, if that is clear from the answers of its own code."""
    if record.odd or not record.told:
        return None
    for place in record.places:
        with alone(), suppress(Exception):  # the script's own code, with other things than it was made for
            found = _asked(record, place, own, until)
            if found:
                return place, next(iter(found.values()))
    return None


def _printed(lines: list[str]) -> dict[str, float]:
    """The numbers with a point in what was printed."""
    found = NUMBER.findall(" ".join(lines)[:LONGEST])
    return {f"number {place}": float(number) for place, number in enumerate(found, 1)}


def _asked(record: Recorded, place: Place, own: Callable[[str], bool], until: float) -> dict[tuple[str, str], Verdict]:
    """What one function reads wrong."""
    model, loader = _Model(), _Loader()

    def instead(value: Any) -> Any:
        if isinstance(value, nn.Module) and any(part is record.model for part in value.modules()):
            return model
        return loader if isinstance(value, DataLoader) and value.dataset is record.dataset else None

    built = Replica(own, instead)
    function = built.of(place.code, place.namespace, place.free)
    values = {name: built.argument(value) for name, value in place.values.items()}

    def score(told: list[tuple[Any, Any]]) -> dict[str, float]:
        if time.perf_counter() > until:
            raise TimeoutError
        loader.batches, model.answers = [batch for batch, _ in told], [output for _, output in told]
        loader.batch_size = _count(told[0][0])
        loader.dataset = _Rows(sum(_count(batch) for batch, _ in told))
        in_place = [values[name] for name in place.code.co_varnames[: place.code.co_argcount]]
        rest = {name: value for name, value in values.items() if name not in place.code.co_varnames[: len(in_place)]}
        built.said.clear()
        return numbers(function(*in_place, **rest), -1) or _printed(built.said)

    told = [(_copied(batch), _copied(output)) for batch, output in record.told]
    if not score(told):
        return {}
    found: dict[tuple[str, str], Verdict] = {}
    for one, other in _pairs(record.told):
        found |= _compared(record.told, one, other, score)
    return found


def _compared(
    told: list[tuple[Any, Any]], output: int, label: int, score: Callable[[list[tuple[Any, Any]]], dict[str, float]]
) -> dict[tuple[str, str], Verdict]:
    """What comes of the truth in the leaf `output` of what the model says, where the leaf `label` of a batch is it."""
    shapes = [(_leaf(o, output).shape[1:], _leaf(b, label).shape[1:]) for b, o in told]
    told = [one for one, shape in zip(told, shapes, strict=True) if shape == shapes[0]]
    pred = torch.cat([_leaf(o, output).detach() for _, o in told])
    target = torch.cat([_leaf(b, label).to(pred.device) for b, _ in told])
    sizes = [len(_leaf(o, output)) for _, o in told]
    if sizes != [len(_leaf(b, label)) for b, _ in told]:
        return {}
    read = reading(pred, target)
    if read is None or not read.others:
        return {}

    def asked(these: Tensor, those: Tensor) -> dict[str, float]:
        if these.shape != pred.shape:
            raise Unsafe("another shape")
        parts = zip(told, these.to(pred.dtype).split(sizes), those.to(target.dtype).split(sizes), strict=True)
        return score([(_copied(b, label, right), _copied(o, output, said)) for (b, o), said, right in parts])

    others = tuple(o for o in read.others if o.pred.shape == pred.shape and o.target.shape == target.shape)
    found = judged(type(read)(read.truth, others, read.share), pred, target, asked, set())
    right = asked(read.truth, target)
    return {} if any(abs(value - 1) < 1e-3 or abs(value - 100) < 0.1 for value in right.values()) else found


# --- batches and outputs ---------------------------------------------------------------------------------------------


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in leaves(value) if isinstance(leaf, Tensor)]


def _leaf(value: Any, place: int) -> Tensor:
    return _tensors(value)[place]


def _count(batch: Any) -> int:
    return next((len(leaf) for leaf in leaves(batch) if getattr(leaf, "ndim", 1)), 0)


def _pairs(told: list[tuple[Any, Any]]) -> list[tuple[int, int]]:
    """Places of tensors in an output, and of tensors of a batch that may be what is wanted there."""
    batch, output = told[0]
    ways = [
        (one, other)
        for one, said in enumerate(_tensors(output))
        for other, wanted in enumerate(_tensors(batch))
        if said.is_floating_point() and said.dim() and wanted.dim() and len(said) == len(wanted)
        if said.dim() == wanted.dim() + 1 or said.squeeze().shape == wanted.squeeze().shape
    ]
    return ways[:PAIRS]


def _copied(value: Any, place: int = -1, new: Tensor | None = None) -> Any:
    """A copy, with `new` for its tensor number `place`."""
    known = _tensors(value)
    changed = {id(leaf): (new if number == place else leaf.detach().clone()) for number, leaf in enumerate(known)}

    def made(one: Any) -> Any:
        if isinstance(one, Tensor):
            return changed.get(id(one), one)
        if isinstance(one, MutableMapping):
            other = copy.copy(one)
            for key in one:
                other[key] = made(one[key])
            return other
        if isinstance(one, tuple) and hasattr(one, "_fields"):
            return type(one)(*map(made, one))
        if isinstance(one, list | tuple):
            return type(one)(map(made, one))
        if is_dataclass(one) and not isinstance(one, type):
            twin: Any = copy.copy(one)
            for part in fields(one):
                setattr(twin, part.name, made(getattr(one, part.name)))
            return twin
        return copy.deepcopy(one) if type(one).__module__ == "numpy" else one

    return made(value)
