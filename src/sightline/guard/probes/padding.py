"""Does padding change what a row says next? A row of a padded batch against the same row alone and unpadded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from sightline.guard.evidence import PaddingSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves, rebuilt
from sightline.guard.probes.padded import real_tokens
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

CACHE = ("past_key_values", "cache_position", "use_cache", "logits_to_keep", "num_logits_to_keep", "labels")
OTHER_INPUTS = ("decoder_input_ids", "encoder_outputs", "inputs_embeds")  # a row is more than its ids
SAME = 1e-3  # of the probability: what an image that went with its row leaves between the row alone and in its batch
ROWS = 4  # padded rows that are compared with themselves alone

Side = Literal["left", "right"]


def side_of(mask: Tensor) -> Side | None:
    """Where a (B, T) bool mask says that rows are padded; None for no padding, and for rows that are padded oddly."""
    padded = ~mask.all(dim=1) & mask.any(dim=1)
    if not padded.any():
        return None
    rows = mask[padded].int()
    if bool((rows.diff(dim=1) >= 0).all()):
        return "left"
    return "right" if bool((rows.diff(dim=1) <= 0).all()) else None


@refusable
def padding(
    call: Call, mask: Tensor, step: int, *, chosen: Tensor | None = None, last_only: bool = False
) -> PaddingSeen | None:
    """Repeat `call` in eval mode and without a cache, and compare padded rows with themselves alone.

    Args:
        mask: (B, T) bool, True on real tokens.
        chosen: (B,) the tokens the host went on with, when it generated.
        last_only: the host had the logits of the last position alone.

    Returns None where a row cannot be taken out of the batch (other inputs, other shapes), or the model does not
    answer (B, T, V) logits to such a call.
    """
    side, bare = side_of(mask), bare_of(call)
    if side is None or bare is None:
        return None
    rows = (~mask.all(dim=1) & mask.any(dim=1)).nonzero().flatten().tolist()[:ROWS]
    try:
        with untouched(call.model), torch.no_grad():
            call.model.eval()
            together = bare.run().logits
            if together is None or together.shape[:2] != mask.shape:
                return None
            alone = [_alone(bare, mask, row, copies=1) for row in rows]
            beside = _alone(bare, mask, rows[0], copies=2)
    except (RuntimeError, TypeError, ValueError, KeyError, IndexError, AttributeError):
        return None  # a stranger's model may need what was taken away: then there is no answer
    if beside is None or any(one is None for one in alone):
        return None
    single = torch.stack([one for one in alone if one is not None])
    ends = [int(mask[row].nonzero()[-1]) for row in rows]
    real = torch.stack([together[row, end] for row, end in zip(rows, ends, strict=True)]).float()
    last = torch.stack([together[row, -1] for row in rows]).float()
    generating = chosen is not None
    read = last if generating else real
    followed = None if chosen is None else _followed(chosen[rows], last, single, last_only)
    if _more(bare, mask) and float(_distance(real, single).max()) > SAME:
        return None  # the images may be another row's
    rounding = torch.finfo(together.dtype).eps * float(single.abs().max())
    return PaddingSeen(
        step=step,
        side=side,
        generating=generating,
        rows=len(rows),
        gap=float(_distance(read, single).max()),
        noise=max(rounding, float(_distance(beside, single[0]))),
        followed=followed,
    )


def _followed(tokens: Tensor, last: Tensor, alone: Tensor, last_only: bool) -> float:
    """Do the tokens that the host went on with come from the rows' last positions, or from their last real tokens?

    Likeliest tokens settle it (inf, -inf, or 0 where they are the same); sampled ones are weighed, in nats.
    """
    padded, real = (bool((logits.argmax(-1) == tokens).all()) for logits in (last, alone))
    if last_only or (padded and not real):
        return float("inf")
    if real:
        return 0.0 if padded else float("-inf")
    gain = last.log_softmax(-1) - alone.log_softmax(-1)
    return float(gain.gather(-1, tokens[:, None]).sum())


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return (one.softmax(-1) - other.softmax(-1)).abs().sum(-1) / 2


def bare_of(call: Call) -> Call | None:
    """The call without its cache; None where a row is more than its tokens."""
    if any(call.value(name) is not None for name in OTHER_INPUTS):
        return None
    kwargs = {name: value for name, value in call.kwargs.items() if name not in CACHE}
    bare = Call(call.model, call.args, kwargs, call.forward)
    return bare if bare.repeatable else None


def _unlike_rows(parts: Sequence[Any], rows: int) -> bool:
    """Whether these are a part for each row: tensors, none of which has all rows."""
    return all(isinstance(part, Tensor) and part.dim() > 0 and len(part) != rows for part in parts)


def _more(call: Call, mask: Tensor) -> bool:
    """Whether a call holds more than text: anything that is no (B, T) or (B,) tensor."""
    return any(t.dim() > 2 or t.shape[:1] != mask.shape[:1] for t in leaves(call.args, call.kwargs).values() if t.dim())


def _alone(call: Call, mask: Tensor, row: int, copies: int) -> Tensor | None:
    """(V,) float32 logits of the last position of one row without its padding, given `copies` times over."""
    logits = row_alone(call, mask, row, copies).run().logits
    if logits is None or logits.shape[:2] != (copies, int(mask[row].sum())):
        return None
    return logits[0, -1].float()


def row_alone(call: Call, mask: Tensor, row: int, copies: int = 1) -> Call:
    """The call with one row only, `copies` times over and without its padding. ValueError where no row can be cut.

    Of what is no text, such as images, the part in the row's place is taken, where there is one for each row.
    """
    keep = mask[row].nonzero().flatten()
    positions, counted = torch.arange(len(keep), device=mask.device), call.tensor("position_ids")
    real = real_tokens(call)
    lengths = None if real is None else real.sum(dim=1)

    def cut(value: Any, name: str) -> Any:
        if isinstance(value, list | tuple) and len(value) == len(mask) and _unlike_rows(value, len(mask)):
            return type(value)([value[row]] * copies)
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        if lengths is not None and value.shape == lengths.shape and bool((value == lengths).all()):
            return torch.full_like(value[:1], len(keep)).expand(copies)
        if value.dim() > 2 and len(value) == len(mask):
            return value[row : row + 1].expand(copies, *value.shape[1:])
        if value.dim() != 2 or value.shape != mask.shape:
            raise ValueError(f"{name}: not of the batch's shape")
        part = positions if name == "position_ids" or value is counted else value[row, keep]
        return part.to(value.dtype).expand(copies, -1)

    args = tuple(rebuilt(argument, cut) for argument in call.args)
    return Call(
        call.model, args, {name: rebuilt(value, cut, name) for name, value in call.kwargs.items()}, call.forward
    )
