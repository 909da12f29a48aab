"""Reads a batch, however the host passes it, into evidence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.evidence import BatchSeen, Phase
from sightline.guard.probes.call import Call
from sightline.guard.probes.fields import leaves
from sightline.guard.probes.padded import real_tokens

TOKEN_FIELDS = (
    "input_ids",
    "labels",
    "attention_mask",
    "position_ids",
    "group_ids",
    "segment_ids",
    "assistant_mask",
)
ALIASES = {"assistant_mask": ("assistant_masks",)}  # the name of TRL and of transformers' chat templates
MASKS = ("attention_mask", "assistant_mask")
NO_IMAGES = ("attention_mask", "past_key_values", "labels")  # what may be floating beside ids
IMAGE_COUNTS = ("image_index", "image_grid_thw", "pixel_values", "features")  # first that is there counts the images


def token_tensors(call: Call) -> dict[str, Tensor]:
    """The (B, T) tensors of a batch by name (others, such as 3-D rotary positions or 4-D masks, are left out)."""
    found: dict[str, Tensor] = {}
    for name in TOKEN_FIELDS:
        for alias in (name, *ALIASES.get(name, ())):
            tensor = call.tensor(alias)
            if tensor is not None and tensor.dim() == 2 and name not in found:
                found[name] = tensor.bool() if name in MASKS else tensor
    return found


def image_spans(call: Call) -> int | None:
    """How many images the batch shows to the language tower; 0 for ids without any image input.

    None without ids, and where features come under a name of their own: nobody knows of how many images they are.
    """
    for name in IMAGE_COUNTS:
        if (tensor := call.tensor(name)) is not None:
            return len(tensor)
    if call.tensor("input_ids") is None:
        return None
    inputs = {name: part for name, part in call.kwargs.items() if name not in NO_IMAGES}
    more = (part for part in leaves(call.args, inputs).values() if part.is_floating_point() and part.dim() > 1)
    return 0 if next(more, None) is None else None


def image_features(call: Call, made: int | None) -> int | None:
    """Feature vectors that stand for the batch's image spans, when the connector `made` so many.

    An image that several spans show (`image_index`) is encoded once.
    """
    spans, distinct = image_spans(call), call.tensor("pixel_values")
    distinct = call.tensor("features") if distinct is None else distinct
    if made is None or call.tensor("image_index") is None or distinct is None or not len(distinct):
        return made
    return made // len(distinct) * (spans or 0)


def batch_seen(
    tensors: dict[str, Tensor],
    call: Call,
    phase: Phase,
    step: int,
    image_token_id: int | None,
    features: int | None,
    decode: Callable[[Sequence[int]], str] | None,
    *,
    graph: bool = False,
    heads: tuple[str, str] | None = None,
    mute: bool = False,
) -> BatchSeen:
    """The evidence. `tensors` are those of `token_tensors`, on the CPU; `graph`: the features have one."""
    examples = call.value("examples")
    return BatchSeen(
        phase=phase,
        step=step,
        **tensors,
        image_token_id=image_token_id,
        image_spans=image_spans(call),
        image_features=features,
        image_graph=graph,
        pad_id=pad_id(call),
        where=tuple(str(e) for e in examples) if isinstance(examples, tuple | list) else (),
        decode=decode,
        heads=heads,
        mute=mute,
    )


def pad_id(call: Call) -> int | None:
    """A model's own id of padding: its config's, that of all its embeddings that have one, or of what it is given."""
    config = getattr(call.model, "config", None)
    if config is not None and hasattr(config, "pad_token_id"):
        return config.pad_token_id if isinstance(config.pad_token_id, int) else None
    return own_padding(call)


def own_padding(call: Call) -> int | None:
    """The id that is padding and nothing else: its tables say so, or the call hides it wherever it stands."""
    tables = [module for module in call.model.modules() if isinstance(module, nn.Embedding)]
    named = {table.padding_idx for table in tables if table.padding_idx is not None}
    if len(named) == 1:
        return named.pop()
    return None if named else _hidden_id(call)


def _hidden_id(call: Call) -> int | None:
    """The one id that masks of the call hide wherever it stands (True there, as torch's `key_padding_mask` is), or that
    its lengths cut off, and that stands nowhere else."""
    own = call.tensor("input_ids")
    if own is not None and (real := real_tokens(call)) is not None and not bool(real.all()):
        beyond = own[~real].unique()
        if len(beyond) == 1 and torch.equal(own != beyond, real):
            return int(beyond)
    grids = [v for v in leaves(call.args, call.kwargs).values() if v.dim() == 2]
    masks = [grid for grid in grids if grid.dtype is torch.bool]
    found = set()
    for ids in (grid for grid in grids if not grid.is_floating_point() and grid.dtype is not torch.bool):
        for mask in (m for one in masks for m in (one, one.T) if m.shape == ids.shape):
            hidden = ids[mask].unique()
            if len(hidden) == 1 and torch.equal(ids == hidden, mask):
                found.add(int(hidden))
    return found.pop() if len(found) == 1 else None


def decoder(tokenizer: Any) -> Callable[[Sequence[int]], str] | None:
    """ids -> text with special tokens, from a tokenizer, a processor, or anything with ``decode(ids)``."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    return getattr(tokenizer, "decode", None)


def rms(tensor: Tensor) -> Tensor:
    """Root mean square over all elements, 0-dim float32."""
    with torch.no_grad():
        return tensor.detach().float().square().mean().sqrt()
