"""Which tensors of a call make its rows: those with more than one number a row, or the ids of several things."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from sightline.guard.probes.call import Call, outcome
from sightline.guard.probes.fields import leaves

WIDE = 512  # elements of a row whose bytes are hashed, evenly spaced; of token ids all up to LONG
LONG = 2048
ENDS = -2  # no id: what is the same at the end of a row is taken for padding (see row_hashes.py)
IDS = (torch.int64, torch.int32)
OTHER = ("label", "target", "mask", "position", "cache", "past", "group_ids", "segment_ids")  # not what a row is


def wide_inputs(call: Call, aside: Collection[str] = OTHER) -> list[Tensor]:
    """The tensors of a call that have rows, in order; none whose name has one of the words `aside` in it."""
    return [value.detach() for value in _wide(call, aside)]


def _wide(call: Call, aside: Collection[str]) -> list[Tensor]:
    """Arguments, and members of mappings; where there are none, those of any object that holds a batch."""
    named = [(str(place), value) for place, value in enumerate(call.args)] + list(call.kwargs.items())
    named += [item for _, value in named if isinstance(value, Mapping) for item in value.items()]
    found = _with_rows(named, aside)
    return found if found or _pictures(call) else _with_rows(leaves(call.args, call.kwargs).items(), aside)


def _with_rows(named: Iterable[tuple[str, Any]], aside: Collection[str]) -> list[Tensor]:
    kept = ((str(name), value) for name, value in named if isinstance(value, Tensor) and value.dim() > 1)
    return [value for name, value in kept if not any(word in name for word in aside)]


def batch_first(call: Call, output: Any) -> Call:
    """The same call with inputs that have their time first put batch first: it is where outputs have their rows."""
    first, wide = outcome(output).answers, _wide(call, OTHER)
    if first is None or not wide or any(len(v) == len(first) or v.shape[1] != len(first) for v in wide):
        return call
    for value in wide:
        call = call.swapped(value, value.transpose(0, 1))
    return call


def rows_in(call: Call) -> list[Tensor]:
    """The tensors whose rows make a sample, thinned out; [] where they do not agree on what a row is."""
    wide = wide_inputs(call)
    if not wide or call.of_graph:
        return []
    count, mask = len(wide[0]), call.tensor("attention_mask")
    kept = []
    for value in wide:
        if len(value) != count:
            return []
        if value.is_complex():
            value = torch.view_as_real(value.resolve_conj())
        if not value.is_floating_point() and mask is not None and mask.shape == value.shape:
            value = value.masked_fill(mask == 0, -1)
        flat = value.reshape(count, -1)
        most = WIDE if value.is_floating_point() else LONG
        kept.append(flat[:, :: max(1, -(-flat.shape[1] // most))])
    return kept


def one_channel(wide: list[Tensor]) -> int:
    """How many numbers of a row, as `rows_in` gives it, are the first of the channels of a series; 0 for no series."""
    if not wide or wide[0].dim() != 3 or not wide[0].is_floating_point():
        return 0
    channels, times = wide[0].shape[1:]
    return times // max(1, -(-channels * times // WIDE)) if channels > 1 else 0


def pairs_in(call: Call) -> list[Tensor]:
    """The ids, side by side, of a model that is given nothing but several for each row."""
    named = [*((str(place), value) for place, value in enumerate(call.args)), *call.kwargs.items()]
    given = [(name, value) for name, value in named if isinstance(value, Tensor)]
    ids = [v.detach() for name, v in given if v.dtype in IDS and v.dim() == 1 and not any(o in name for o in OTHER)]
    alike = len(ids) > 1 and all(len(one) == len(ids[0]) for one in ids)
    if not alike or any(v.dim() != 1 for _, v in given):
        return []
    return [torch.stack([*ids, torch.full_like(ids[0], ENDS)], 1)]


def listed_in(call: Call) -> list[Tensor]:
    """The pictures of a model that is given a list of them, of any sizes, thinned out; as detectors are."""
    pictures = _pictures(call)
    if len(pictures) != 1:
        return []
    flat = [one.detach().reshape(-1) for one in pictures[0]]
    few = [one[:: max(1, -(-len(one) // WIDE))].float() for one in flat]
    return [torch.stack([pad(one, (0, WIDE - len(one))) for one in few])]


def _pictures(call: Call) -> list[Any]:
    """The lists of pictures among its arguments."""
    given = [value for value in (*call.args, *call.kwargs.values()) if type(value) in (list, tuple) and len(value)]
    return [value for value in given if all(isinstance(one, Tensor) and _is_picture(one) for one in value)]


def _is_picture(value: Tensor) -> bool:
    return value.dim() == 3 and value.is_floating_point()


def is_mask(value: Tensor) -> bool:
    """Ones and zeros: they say which part of another input counts, or of which kind it is."""
    return not value.is_floating_point() and bool(((value == 0) | (value == 1)).all())
