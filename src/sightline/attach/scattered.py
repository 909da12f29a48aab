"""Features that a model writes into its embeddings with `masked_scatter`, which drops in silence what finds no place.

Or into those that a mask names, of as many features as there are places. The graph of the outputs keeps what was given:
the mask, and the shape of the source. And in which table ids were looked up.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sightline.attach.graph import nodes
from sightline.guard.probes.call import outcome

NODES = 20_000  # of a graph that are gone through; its first layers come last
SCATTER, PUT, CUT = "MaskedScatterBackward0", "IndexPutBackward0", "SliceBackward0"
LOOKED_UP = "EmbeddingBackward0"


def scattered(output: Any, ids: Tensor) -> tuple[Tensor, int] | None:
    """Where the one such write into embeddings of `ids` (B, T) wrote, (B, T) bool; and how many features there were.

    None if there is none, or it did not write whole embeddings.
    """
    found = [node for node in nodes([root(output)], most=NODES) if type(node).__name__ in (SCATTER, PUT)]
    if len(found) != 1:
        return None
    if type(found[0]).__name__ == PUT:
        return _put(found[0], ids)
    mask, source = found[0]._saved_mask, tuple(found[0]._saved_source_sym_sizes)
    if mask.dim() != 3 or mask.shape[:2] != ids.shape or not source:
        return None
    width = mask.shape[-1] if mask.shape[-1] > 1 else source[-1]
    numel = torch.Size(source).numel()
    return (mask[..., 0], numel // width) if width and numel % width == 0 else None


def looked_up(output: Any, ids: Tensor, tables: Sequence[Tensor]) -> Tensor | None:
    """The one of these weights in which just these `ids` were looked up, and not places or kinds of them; None else."""
    found = dict[int, Tensor]()
    for node in nodes([root(output)], most=NODES):
        if type(node).__name__ != LOOKED_UP:
            continue
        weight: Any = getattr(node.next_functions[0][0], "variable", None)
        at = node._saved_indices
        if any(weight is table for table in tables) and at.shape == ids.shape and at.data_ptr() == ids.data_ptr():
            found[id(weight)] = weight
    return found.popitem()[1] if len(found) == 1 else None


def root(output: Any) -> Any:
    """The node of the graph that gave what the model says."""
    made = outcome(output)
    return next((t.grad_fn for t in (made.logits, made.loss) if t is not None and t.grad_fn is not None), None)


def _put(node: Any, ids: Tensor) -> tuple[Tensor, int] | None:
    """The same of `embeddings[mask] = features[:places]`; 0 features where it is not known that any were left out."""
    masks, source = node._saved_indices, node.next_functions[1][0]
    if len(masks) != 1 or masks[0] is None or masks[0].dtype is not torch.bool or masks[0].shape != ids.shape:
        return None
    if type(source).__name__ != CUT or source._saved_dim != 0:
        return masks[0], 0
    return masks[0], source._saved_self_sym_sizes[0]


def partly_filled(ids: Tensor, mask: Tensor, features: int) -> tuple[int, int] | None:
    """The token that the features were written over, and how many rows have too few of it, but some.

    None unless every row's features are as many as the fullest row has places, or more than any has, of which no whole
    images are left (and no features for each token): a row's go astray. One without any place may be of text alone.
    """
    counts, tokens = mask.sum(dim=1), ids[mask].unique()
    most, each = int(counts.max()), features / len(ids)
    cut = each.is_integer() and each != ids.shape[1] and math.gcd(*counts.tolist()) == 1
    fits = most == each or (most < each and cut)
    if len(tokens) != 1 or most >= ids.shape[1] or not fits or int(counts.sum()) >= features:
        return None
    partial = int(((counts > 0) & (counts < each)).sum())
    return (int(tokens), partial) if partial and torch.equal(ids == tokens, mask) else None
