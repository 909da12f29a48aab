"""Which tokens of a call are padding, by what the host itself gives its model: a mask of its ids, or their lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves

WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8)


def real_tokens(call: Call) -> Tensor | None:
    """(B, T) bool, True on tokens that are none of padding. None where the host does not say so.

    A mask goes by its name; or it is a tensor of the ids' shape, of zeros and ones, one of which stands at one end of
    the rows, where all ids are the same (either one may mean padding). Lengths are one number a row, behind which all
    ids are the same.
    """
    ids, named = call.tensor("input_ids"), call.tensor("attention_mask")
    if ids is None or ids.dim() != 2 or ids.is_floating_point() or min(ids.shape) < 2:
        return None
    if named is not None:
        return named.to(torch.bool) if named.shape == ids.shape else None
    others = [t for t in leaves(call.args, call.kwargs).values() if t is not ids and t.device == ids.device]
    masks = [mask for t in others if t.shape == ids.shape and (mask := _as_mask(t, ids)) is not None]
    found = masks or [mask for t in others if t.shape == ids.shape[:1] and (mask := _up_to(t, ids)) is not None]
    found = [mask for mask in found if not bool(mask.all())] or found[:1]
    return found[0] if found and all(torch.equal(found[0], one) for one in found) else None


def _as_mask(tensor: Tensor, ids: Tensor) -> Tensor | None:
    if tensor.dtype is not torch.bool and not bool(((tensor == 0) | (tensor == 1)).all()):
        return None
    mask = tensor.detach().to(torch.bool)
    if bool((mask == mask[:1, :1]).all()):
        return torch.ones_like(mask)  # nothing of this batch is padding, whatever it is a mask of
    return next((real for real in (mask, ~mask) if _hides_padding(real, ids)), None)


def _up_to(lengths: Tensor, ids: Tensor) -> Tensor | None:
    """The mask of (B,) lengths, where what stands in front of a row's end is a token, and behind it padding."""
    if lengths.dtype not in WHOLE or not bool(((lengths >= 1) & (lengths <= ids.shape[1])).all()):
        return None
    mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    if bool(mask.all()):
        return mask
    last = ids.gather(1, lengths[:, None].long() - 1).squeeze(1)
    return mask if _hides_padding(mask, ids) and not bool((last == ids[~mask][0]).any()) else None


def _hides_padding(real: Tensor, ids: Tensor) -> bool:
    """Whether one id alone stands where `real` is False, which is at one and the same end of rows."""
    hidden = ids[~real]
    if not hidden.numel() or not bool((hidden == hidden[0]).all()) or not bool(real.any(dim=1).all()):
        return False
    steps = real.int().diff(dim=1)
    return bool((steps >= 0).all() | (steps <= 0).all())
