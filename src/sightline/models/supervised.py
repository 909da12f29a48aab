"""Logits at supervised positions alone.

Most tokens of a VLM's batch are image or prompt tokens whose logits nobody reads; with a vocabulary of 150,000 they
take more memory than the rest of the step. The model's own forward pass is called as it is, and only the input of its
output embedding is narrowed, so that whatever it does to its logits afterwards (soft-capping, scaling) still happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from sightline.errors import UserError


@contextmanager
def only_rows(head: nn.Module | None, rows: Int[Tensor, " S"]) -> Iterator[None]:
    """While open, `head` is given the hidden states of `rows` alone: (B, T, D) becomes (1, S, D)."""
    if head is None:
        raise UserError("the language model has no output embedding", fix="use a causal language model with an LM head")

    def select(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = inputs[0]
        return (hidden.flatten(0, -2).index_select(0, rows).unsqueeze(0), *inputs[1:])

    handle = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def last_rows(batch: int, length: int, device: torch.device) -> Int[Tensor, " B"]:
    """Rows of each sequence's last position in the flattened (B T) positions."""
    return torch.arange(1, batch + 1, device=device) * length - 1
