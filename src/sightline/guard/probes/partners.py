"""Do the inputs of a data set go together with their labels, or with those of other rows? By the measure of `filed`.

Other rows: those a few places on, and those in an order that the script drew. Only of data whose neighbours have
nothing to do with each other: in a series each row may tell of the next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d
from torch.utils.data import DataLoader

from sightline.guard.evidence import FiledSeen
from sightline.guard.evidence.filed import NOT, SURE
from sightline.guard.probes.draws import can_be_copied, quiet_copy
from sightline.guard.probes.fields import members
from sightline.guard.probes.filed import Label, encoded, features, together
from sightline.guard.probes.samples import array_of

RUNS, LONG = 8, 64  # of rows one after the other, spread over the data set
SHIFTS = (1, 2, 3)  # to the label of a row after the own one; of pictures also before it (a series tells what comes)
SECONDS, TAKEN = 1.0, 16  # for reading once, from the first rows on, so many of them at a time
IN_ALL = 3.0  # seconds
WIDE, NUMBERS = 256, 64  # numbers of an input that are compared; of a label
Row = tuple[str, Any, Label]  # what kind of input; its numbers, or its ids and words; the rest of the row
Order = Mapping[int, int]


def partners(loader: DataLoader[Any], drawn: Sequence[Sequence[int]], step: int) -> FiledSeen | None:
    """`drawn`: orders of that many rows, or more. None where inputs fit their labels, or rows are slow to read."""
    count, until = len(loader.dataset), time.monotonic() + IN_ALL  # type: ignore[arg-type]
    chosen = spread_over(count)
    rows = _read(loader, chosen)
    if len(rows) < len(chosen) or len({_form(row) for row in rows.values()}) > 1:
        return None
    return compared(
        rows, chosen, count, drawn, step, lambda places: _read(loader, places) if time.monotonic() < until else {}
    )


def _form(row: Row) -> tuple[str, tuple[int, ...]]:
    """Rows of one form alone can be compared number by number; series of several lengths cannot."""
    return row[0], getattr(row[1], "shape", ())


def spread_over(count: int) -> list[int]:
    """Places of runs of rows, spread over as many."""
    starts = [run * (count - LONG) // (RUNS - 1) for run in range(RUNS)]
    return sorted({place for start in starts for place in range(start, start + LONG) if place < count})


def compared(
    rows: dict[int, Row],
    chosen: Sequence[int],
    count: int,
    drawn: Sequence[Sequence[int]],
    step: int,
    read: Callable[[Sequence[int]], dict[int, Row]],
) -> FiledSeen | None:
    """The inputs of `chosen` rows beside their own labels, and if they do not fit, beside others', which are read."""
    given, picture = _fit(rows, {place: place for place in chosen}), rows[chosen[0]][0] == "picture"
    for by in (*SHIFTS, *(-by for by in SHIFTS if picture)) if given <= NOT else ():
        order = {place: place + by for place in chosen if place + by in chosen and place + by in rows}
        if (other := _fit(rows, order)) >= SURE and _fit(rows, order, inputs=True) <= NOT:
            return FiledSeen(step, len(order), given, other, "shifted", "", str(by))
    for order in _orders(drawn, chosen, count) if given <= NOT else ():
        rows.update(read([at for at in order.values() if at not in rows]))
        order = {place: at for place, at in order.items() if at in rows}
        if (other := _fit(rows, order)) >= SURE:
            return FiledSeen(step, len(order), given, other, "drawn", *map(str, next(iter(order.items()))))
    return None


def _orders(drawn: Sequence[Sequence[int]], chosen: Sequence[int], count: int) -> Iterator[dict[int, int]]:
    """Where the label of each row is, had the inputs alone, or the labels alone, been put into one of these orders."""
    for line in drawn:
        back = {at: place for place, at in enumerate(line)}
        for order in (dict(enumerate(line)), back):
            yield {place: order[place] for place in chosen if order.get(place, count) < count}


def _fit(rows: Mapping[int, Row], order: Order, *, inputs: bool = False) -> float:
    """How far inputs go together with the labels (or the inputs) of others, in standard deviations."""
    if len(order) < LONG:
        return 0.0

    def numbers(places: Iterable[int]) -> Tensor:
        given = [rows[place][1] for place in places]
        words = rows[next(iter(order))][0] == "words"
        return encoded([{"": one} for one in given]) if words else torch.stack([torch.from_numpy(one) for one in given])

    others = order.values()
    return together(numbers(order), numbers(others) if inputs else encoded([rows[at][2] for at in others]))


def _read(loader: DataLoader[Any], places: Sequence[int]) -> dict[int, Row]:
    """Rows, as far as time allows, by a forked worker of a copy; none where that fails."""
    if not places or not can_be_copied(loader, least=0):
        return {}
    found: dict[int, Row] = {}
    some = [list(places[start : start + TAKEN]) for start in range(0, len(places), TAKEN)]
    until = 0.0
    try:
        for part, rows in zip(some, quiet_copy(loader.dataset, some, _rows), strict=True):
            until = until or time.monotonic() + SECONDS
            if rows is None or time.monotonic() > until:
                break
            found.update(zip(part, rows, strict=True))
    except RuntimeError:
        return {}
    return found


def _rows(samples: list[Any]) -> list[Row] | None:
    """All of them (in the worker); None where one is not fit."""
    found = [row for row in map(_parts, samples) if row is not None]
    return found if len(found) == len(samples) else None


def _parts(sample: Any) -> Row | None:
    """The largest part of a row, and what else is in it that can be a label (in the worker)."""
    found = dict(_leaves(sample, ""))
    sizes = {path: len(one) if isinstance(one, list) else one.numel() for path, one in found.items()}
    if len(found) < 2 or sizes[most := max(sizes, key=sizes.__getitem__)] < 2:
        return None
    label: Label = {}
    for path, one in found.items():
        mask = isinstance(one, Tensor) and sizes[path] == sizes[most] and not bool(((one != 0) & (one != 1)).any())
        if path != most and sizes[path] <= NUMBERS and not mask:
            label[path] = tuple(one.flatten().double().tolist()) if isinstance(one, Tensor) else tuple(one)
    kind, numbers = input_of(found[most])
    return (kind, numbers, label) if label else None


def input_of(one: Any) -> tuple[str, Any]:
    """Words and ids as they are; of a picture and of other numbers, a few hundred."""
    if not isinstance(one, Tensor):
        return "words", tuple(one)
    if (picture := features(one)) is not None:
        return "picture", picture.numpy()
    if not one.is_floating_point():
        return "words", tuple(one.flatten().double().tolist())
    numbers = one.float().flatten()
    if len(numbers) > WIDE:
        numbers = adaptive_avg_pool1d(numbers[None, None], WIDE).flatten()
    return "numbers", numbers.numpy()  # a tensor would be sent by a file of its own


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Tensor | list[str]]]:
    """Numbers as tensors, and texts as words."""
    if isinstance(value, str):
        yield path, value.lower().split()
    elif isinstance(value, bool | int | float):
        yield path, torch.tensor([float(value)])
    elif isinstance(value, list | tuple) and value and all(type(one) in (int, float) for one in value):
        yield path, torch.tensor(value)
    elif isinstance(value, Tensor) or (array := array_of(value)) is not None:
        tensor = value.detach() if isinstance(value, Tensor) else array
        if tensor is not None and not tensor.is_complex() and tensor.numel():
            yield path, tensor
    else:
        for name, part in members(value) if isinstance(value, Mapping | list | tuple) else ():
            yield from _leaves(part, f"{path}.{name}")
