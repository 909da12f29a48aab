"""Hashes of batches and of parameters: small integers, computed on the device, equal where the bits are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sightline.guard.probes.call import Call, place_of
from sightline.guard.probes.fields import leaves

COLUMNS = 4096  # elements of a row that are hashed: all of a small one, an even sample of a large one
VALUES = 65_536  # elements of a parameter that are hashed, likewise
TARGETS = ("labels", "label", "targets", "target")  # what a forward takes beside its inputs
SURE = TARGETS[:3]  # also without a keyword: a "target" may be what a sentence is compared with
IDS = (torch.int64, torch.int32)
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014), as signed integers
GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
FACTORS = (0xBF58476D1CE4E5B9 - (1 << 64), 0x94D049BB133111EB - (1 << 64))
_keys: dict[torch.device, tuple[Tensor, Tensor]] = {}


def row_hashes(call: Call) -> Tensor | None:
    """(B,) int64, one for each row of what the model was given (labels aside); None when rows cannot be told."""
    return together([hashes for _, hashes in part_hashes(call)])


def part_hashes(call: Call) -> list[tuple[Tensor, Tensor]]:
    """Each input with rows (labels and masks aside), and (B,) int64, one for each of its rows.

    Padding on the right does not count: ids under a zero of ``attention_mask`` are left out.
    """
    bare = {str(place_of(call.model, name)) for name in SURE}
    named = [(path.rpartition(".")[2], t) for path, t in leaves(call.args, call.kwargs).items() if path not in bare]
    tensors = [(name, t) for name, t in named if name not in TARGETS and t.dim() > 0 and t.numel()]
    found: list[tuple[Tensor, Tensor]] = []
    with torch.no_grad():
        mask = next((t for name, t in tensors if name == "attention_mask" and t.dim() == 2), None)
        for name, tensor in tensors:
            rows = len(tensors[0][1])
            if len(tensor) != rows or name in ("attention_mask", "position_ids"):
                continue
            kept = tensor
            if mask is not None and tensor.shape == mask.shape and not tensor.is_floating_point():
                kept = (tensor + 1) * mask
            found.append((tensor, hashes_of(kept)))
    return found


def hashes_of(rows: Tensor) -> Tensor:
    """(B,) int64, one for each of the rows of an input, whatever their shape."""
    return _hash(rows.detach().reshape(len(rows), -1), COLUMNS)


def together(parts: Sequence[Tensor]) -> Tensor | None:
    """(B,) int64 of the (B,) int64 of several inputs, in their order; None of none."""
    total: Tensor | None = None
    for hashes in parts:
        total = hashes if total is None else mixed(total) + hashes
    return total


def made(call: Call) -> bool:
    """Inputs that gradients flow through come from another model (a generator's, judged by a critic), not from data."""
    return any(isinstance(value, Tensor) and value.requires_grad for value in (*call.args, *call.kwargs.values()))


def plain(call: Call) -> bool:
    """Whether tensors are all that it was given: a number may choose what is taught."""
    return all(isinstance(one, Tensor) for one in (*call.args, *call.kwargs.values()) if one is not None)


def text_and_image(parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
    """The hashes of the rows of ids, and of the one image (or its features) beside them; [] where there is not both."""
    images = [(tensor, hashes) for tensor, hashes in parts if tensor.is_floating_point()]
    ids = [(tensor, hashes) for tensor, hashes in parts if tensor.dtype in IDS]
    if len(images) != 1 or images[0][0].dim() < 3 or not any(tensor.dim() == 2 for tensor, _ in ids):
        return []
    return [text, images[0][1]] if (text := together([hashes for _, hashes in ids])) is not None else []


def texts_each(parts: Sequence[tuple[Tensor, Tensor]]) -> int | None:
    """How many rows of ids in a row are of one sample, where they are views of (samples, texts, words); else None."""
    for tensor, _ in parts:
        whole = tensor._base
        if whole is None or tensor.dtype not in IDS or tensor.dim() != 2 or whole.dim() != 3:
            continue
        samples, texts, words = whole.shape
        same = whole.is_contiguous() and tensor.stride() == whole.stride()[1:] and tensor.storage_offset() < words
        return texts if same and len(tensor) == samples * texts and tensor.shape[1] <= words else None
    return None


def value_hashes(tensors: list[Tensor]) -> Tensor:
    """(P,) int64, one for each tensor's values."""
    with torch.no_grad():
        first = tensors[0].device
        return torch.cat([_hash(t.detach().reshape(1, -1), VALUES).to(first) for t in tensors])


def _hash(rows: Tensor, most: int) -> Tensor:
    """(B,) int64 for (B, N): each element's bits, mixed with a key of its place, summed. Zeros count for nothing."""
    stride = max(1, -(-rows.shape[1] // most))
    sample = rows[:, ::stride].contiguous()
    if sample.is_complex():
        sample = torch.view_as_real(sample).flatten(1)
    if sample.dtype is torch.bool:
        sample = sample.to(torch.int8)
    bits = sample.view(INTEGERS[sample.element_size()]).long()
    keys, zeros = _keys_of(bits.shape[1], bits.device)
    return mixed(_scattered(bits ^ keys).sum(dim=1) - zeros.sum())


def _scattered(values: Tensor) -> Tensor:
    """One round of splitmix64 in place: enough under keys that are well mixed. One to one, so no two bits cancel."""
    values ^= _shifted(values, 32)  # before the product, which carries upwards only: float64s have low bits of 0
    values *= FACTORS[0]
    values ^= _shifted(values, 29)
    return values


def mixed(values: Tensor) -> Tensor:
    """All of splitmix64's finaliser."""
    values = (values ^ _shifted(values, 30)) * FACTORS[0]
    values = (values ^ _shifted(values, 27)) * FACTORS[1]
    return values ^ _shifted(values, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    """To the right, with zeros from the left: torch's own shift brings the sign."""
    return (values >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def _keys_of(count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(count,) int64 keys of places, the same on every rank and in every run; and what a zero comes to under each."""
    known = _keys.get(device)
    if known is None or len(known[0]) < count:
        keys = mixed(torch.arange(1, max(count, COLUMNS) + 1, dtype=torch.int64, device=device) * GOLDEN)
        known = _keys[device] = keys, _scattered(keys.clone())
    return known[0][:count], known[1][:count]
