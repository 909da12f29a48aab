"""Formats of boxes and points, converted into each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def _boxes(before: Callable[..., Any], after: Callable[..., Any]) -> Callable[[Tensor], Tensor]:
    def converted(boxes: Tensor) -> Tensor:
        corners = before(*boxes.unbind(-1))
        return torch.stack(after(*corners), -1)

    return converted


READ: dict[str, Callable[..., Any]] = {  # format -> corners of what is in it
    "corners": lambda a, b, c, d: (a, b, c, d),
    "centre and size": lambda a, b, c, d: (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    "corner and size": lambda a, b, c, d: (a, b, a + c, b + d),
}
WRITE: dict[str, Callable[..., Any]] = {
    "corners": lambda a, b, c, d: (a, b, c, d),
    "centre and size": lambda a, b, c, d: ((a + c) / 2, (b + d) / 2, c - a, d - b),
    "corner and size": lambda a, b, c, d: (a, b, c - a, d - b),
}
FORMATS: dict[str, Callable[[Tensor], Tensor]] = {
    f"converted from {here} to {there}": _boxes(READ[here], WRITE[there])
    for here in READ
    for there in WRITE
    if here != there
}
SWAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "with x and y exchanged": lambda v: v.unflatten(-1, (-1, 2)).flip(-1).flatten(-2),
}
