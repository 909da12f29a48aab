"""Gradient checkpointing: a block's activations are thrown away and computed again in the backward pass.

`transformers` does this only for blocks in training mode, but the gradients of a connector also flow through the blocks
of a frozen language tower, which is kept in evaluation mode. So `forward` is wrapped here, whatever a block's mode.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute(blocks: Iterable[nn.Module], on: bool) -> None:
    """Switch recomputation of `blocks` on or off. Without gradients (evaluation, frozen vision) it does nothing."""
    for block in blocks:
        block.__dict__.pop("forward", None)
        if on:
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
