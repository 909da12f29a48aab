"""What two things a function was given to compare: copies of a few rows, and where each of them came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from types import CodeType
from typing import Any

import torch
from torch import Tensor

ROWS = 256  # that are copied
MOST = 4 << 20  # elements that are copied
TAIL = 64  # last rows by which a tensor is known again
PLACES = (2, 4)  # numbers of a point and of a box
FEW = 4  # numbers or texts that are enough to know it by

PLAIN = (type(None), bool, int, float, str, torch.dtype, torch.device)


@dataclass(frozen=True)
class Data:
    """Rows, as a tensor or as a list of texts. `restored` gives other such rows the form that they came in.

    `several`: each row came as some texts that all may be right; of these, the one that is there most often.
    """

    rows: Any
    restored: Callable[[Any], Any]
    several: bool = False


@dataclass
class Pair:
    """One call. `names`: of the two arguments that are compared. `data`: they, and perhaps a mask. `values`: the rest.

    `given`, `made`: which of the two the data gave, and which the model. `single`: each row is a call of its own.
    `leads`: texts at hand with which some of theirs begin. `tallies`: how often each class is among all that came.
    """

    names: tuple[str, str]
    data: dict[str, Data]
    values: dict[str, Any]
    given: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    leads: set[str] = field(default_factory=set)
    tallies: dict[str, dict[int, int] | None] = field(default_factory=dict)
    single: bool = False
    count: int = 1  # rows that came


@dataclass
class Function:
    """A function of the script, and its calls in the latest evaluations."""

    code: CodeType
    namespace: Mapping[str, Any]
    free: Mapping[str, Any]
    where: str  # it was called first
    now: list[Pair] = field(default_factory=list)
    before: list[Pair] = field(default_factory=list)
    missed: int = 0  # calls that gave no number
    answered: int = 0  # evaluations after which it could be asked
    done: bool = False

    def full(self, calls: int, singles: int) -> bool:
        """Whether enough calls of this evaluation are kept: `calls`, or `singles` where each has one row."""
        return bool(self.now) and len(self.now) >= (singles if self.now[0].single else calls)


def data(value: Any) -> Data | None:
    """A copy of the first rows of what may be predictions or targets; None for anything else."""
    if isinstance(value, Tensor):
        return _tensor(value, lambda rows: rows) if type(value) is Tensor else None
    if type(value).__module__ == "numpy" and hasattr(value, "ndim") and value.ndim:
        return _array(value)
    if type(value) not in (list, tuple) or len(value) < 2:
        return None
    kind, first = type(value), value[0]
    some = value[:ROWS]
    if all(isinstance(one, str) for one in some):
        return Data(list(some), kind)
    if all(_choices(one) for one in some):
        return Data([_usual(one) for one in some], lambda rows: kind(map(_agreed, some, rows)), several=True)
    if all(isinstance(one, int | float) for one in some):
        return _tensor(torch.tensor(some), lambda rows: kind(rows.tolist()))
    if isinstance(first, Tensor) and all(isinstance(t, Tensor) and t.shape == first.shape for t in some):
        return _tensor(torch.stack(list(some)), lambda rows: kind(rows.unbind())) if not first.requires_grad else None
    if not all(type(one) is list and len(one) == len(first) and len(one) > 1 for one in some):
        return None
    numbers = all(isinstance(x, int | float) for one in some for x in one)
    return _tensor(torch.tensor(some), lambda rows: kind(rows.tolist())) if numbers else None


def _choices(value: Any) -> bool:
    return type(value) in (list, tuple) and len(value) > 0 and all(isinstance(one, str) for one in value)


def _usual(texts: Sequence[str]) -> str:
    return max(texts, key=texts.count)


def _agreed(texts: Sequence[str], one: str) -> Sequence[str]:
    """As many texts, all of them the same."""
    return type(texts)([one] * len(texts))  # type: ignore[call-arg]


def _array(value: Any) -> Data | None:
    if value.dtype.kind in "US" or (value.dtype == object and all(isinstance(v, str) for v in value.flat)):
        return Data([str(v) for v in value[:ROWS]], lambda rows: _like(value, rows))
    if value.dtype.kind not in "biuf":
        return None
    per_row = max(1, value[0].size) if len(value) else 1
    copy = torch.as_tensor(value[: max(2, min(ROWS, MOST // per_row))].copy())
    return _tensor(copy, lambda rows: rows.numpy().astype(value.dtype, copy=False))


def _like(value: Any, rows: list[str]) -> Any:
    import numpy as np

    return np.array(rows, dtype=object if value.dtype == object else None)


def _tensor(value: Tensor, restored: Callable[[Tensor], Any]) -> Data | None:
    if value.dim() < 1 or len(value) < 1 or value.is_complex() or value.is_sparse or value.is_quantized:
        return None
    per_row = max(1, value[0].numel())
    if 2 * per_row > MOST or value.numel() < 2:
        return None
    kind = value.dtype
    copy = value[: min(ROWS, MOST // per_row)].detach().clone()
    return Data(copy, lambda rows: restored(rows.to(kind)))


def pair(values: dict[str, Any]) -> Pair | None:
    """The two arguments that are compared, if there are just two, of as many rows; a mask of them may come along."""
    texts = {name: one for name, value in values.items() if (one := _text(value)) is not None}
    if len(texts) == 2 and all(_aside(v) for name, v in values.items() if name not in texts):
        first, second = texts
        if not (texts[first].several and texts[second].several):
            return Pair((first, second), texts, {n: v for n, v in values.items() if n not in texts}, single=True)
    found = {name: one for name, value in values.items() if (one := data(value)) is not None}
    rest = {name: value for name, value in values.items() if name not in found}
    if not 2 <= len(found) <= 3 or not all(map(_aside, rest.values())):
        return None
    masks = [name for name, one in found.items() if isinstance(one.rows, Tensor) and one.rows.dtype == torch.bool]
    if len(found) == 3 and len(masks) != 1:
        return None
    first, second = (name for name in found if len(found) == 2 or name not in masks)
    one, other = found[first].rows, found[second].rows
    if found[first].several and found[second].several:
        return None  # words, or drafts
    if isinstance(one, list) != isinstance(other, list) or len({len(d.rows) for d in found.values()}) > 1:
        return None
    if len(found) == 2 and _one_place(one) and _one_place(other):
        return Pair((first, second), {name: _alone(d) for name, d in found.items()}, rest, single=True)
    return Pair((first, second), found, rest, count=len(values[first])) if len(one) > 1 else None


def _aside(value: Any) -> bool:
    """Whether it may come along: an option, or whose method it is."""
    return isinstance(value, PLAIN) or hasattr(value, "__dict__")


def _text(value: Any) -> Data | None:
    """One text, or some of which each is right."""
    if isinstance(value, str):
        return Data([value], lambda rows: rows[0])
    if _choices(value):
        return Data([_usual(value)], lambda rows: _agreed(value, rows[0]), several=True)
    return None


def _one_place(rows: Any) -> bool:
    """Whether these may be the numbers of one box or point."""
    return isinstance(rows, Tensor) and rows.dim() == 1 and len(rows) in PLACES and rows.is_floating_point()


def _alone(one: Data) -> Data:
    return Data(one.rows[None], lambda rows: one.restored(rows))


# --- where they came from --------------------------------------------------------------------------------------------


def leaves(value: Any, depth: int = 4) -> Iterator[Any]:
    """Tensors, arrays, and lists of texts or numbers inside a batch or an output."""
    if isinstance(value, Tensor) or type(value).__module__ == "numpy":
        yield value
    elif isinstance(value, Mapping) and depth:
        for one in value.values():
            yield from leaves(one, depth - 1)
    elif isinstance(value, list | tuple) and depth and len(value):
        if isinstance(value[0], str | int | float):
            yield value
        else:
            for one in value[-TAIL:]:
                yield from leaves(one, depth - 1)
    elif is_dataclass(value) and not isinstance(value, type) and depth:
        for place in fields(value):
            yield from leaves(getattr(value, place.name, None), depth - 1)


def is_from(value: Any, other: Any) -> bool:
    """Whether texts, or lists of them, are the very objects of `other`."""
    if not isinstance(other, list | tuple):
        return False
    if isinstance(value, str):
        return any(value is one for one in other)
    if not isinstance(value, list | tuple) or not value:
        return False
    count = min(len(value), len(other), TAIL)
    texts = isinstance(value[-1], str) and count > 1
    same = texts and all(a is b for a, b in zip(value[-count:], other[-count:], strict=True))
    return same or value is other or (_choices(other) and value[-1] is other)


def ends_alike(value: Any, other: Any) -> bool:
    """Whether the last of `value` is what `other` ends with, or what `other` ends with where it has labels."""
    if isinstance(value, str):
        return isinstance(other, list | tuple) and value in other
    if getattr(value, "shape", ()) in ((2,), (4,)) and getattr(other, "ndim", 0) == 2:
        return _a_row(value, other)
    one, two = _tail(value), _tail(other)
    if one is None or two is None or isinstance(one, list) != isinstance(two, list):
        return False
    if isinstance(one, list):
        count = min(len(one), len(two))
        return count >= min(FEW, len(one)) and len(set(one[-count:])) > 1 and one[-count:] == two[-count:]
    if _same(one, two):
        return True
    labelled = two[two >= 0]
    return len(labelled) < len(two) and _same(one, labelled)


def _a_row(value: Any, other: Any) -> bool:
    row, rows = (torch.as_tensor(v).detach().to("cpu", torch.float64) for v in (value, other))
    return rows.shape[1] == len(row) and bool((rows == row).all(1).any())


def _same(one: Tensor, two: Tensor) -> bool:
    count = min(len(one), len(two), TAIL)
    if count < FEW:
        return False
    one, two = one[-count:], two[-count:]
    return torch.allclose(one, two, rtol=1e-5, atol=1e-7) and bool((one != one[0]).any())


def _tail(value: Any) -> Any:
    """The last numbers of something, or its last texts."""
    if isinstance(value, list | tuple):
        if all(isinstance(one, str) for one in value[-TAIL:]):
            return list(value[-TAIL:])
        if isinstance(value[-1], Tensor):
            value = value[-1]
        elif not all(isinstance(one, int | float) for one in value[-TAIL:]):
            return None
        else:
            return torch.tensor(value[-TAIL:], dtype=torch.float64)
    if type(value).__module__ == "numpy":
        if value.dtype.kind not in "biuf" or not value.ndim:
            return None
        return torch.as_tensor(value.reshape(-1)[-4 * TAIL :].copy()).double()
    if not isinstance(value, Tensor) or not value.dim() or value.is_complex() or value.layout is not torch.strided:
        return None
    return value.detach().reshape(-1)[-4 * TAIL :].to("cpu", torch.float64)


def said(output: Tensor) -> Iterator[Tensor]:
    """What scripts usually make of an output: itself, chances, classes, yes or no."""
    yield output
    if not output.is_floating_point():
        return
    short = output[-TAIL:].detach()
    yield short.sigmoid()
    yield short > 0
    yield short > 0.5
    if output.dim() > 1:
        yield short.softmax(-1)
        yield short.argmax(-1)
        yield short.argmax(1)
