"""Tensors that are known again by a few of their numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEW = 16  # numbers of a tensor that are compared
Print = tuple[tuple[int, ...], tuple[float, ...]]


def few(tensor: Tensor) -> Tensor:
    """Some of its numbers, to know it again by."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // FEW)][:FEW].clone()


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether they are the same numbers. What is NaN has not changed by being NaN again."""
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and torch.allclose(one, other, rtol=0.0, atol=0.0, equal_nan=True)


def print_of(tensor: Tensor) -> Print | None:
    """Its shape and a few numbers, to be looked up by; None of what is no plain tensor."""
    if type(tensor) not in (Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.device.type == "meta":
        return None
    if tensor.is_complex() or tensor.is_quantized:
        return None
    return tuple(tensor.shape), tuple(few(tensor).double().tolist())
