"""Notes what `pad_sequence` fills texts up with, and whether that is what each of them ends in already."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import rnn

from sightline.attach.filled import ENDED, OTHERS

CALLS = 64  # that are looked at


def install() -> None:
    """From now on."""
    rnn.pad_sequence = _noted(rnn.pad_sequence)


def _noted(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    left = CALLS

    @functools.wraps(fill)
    def pad_sequence(
        sequences: Any, batch_first: bool = False, padding_value: float = 0.0, *args: Any, **kwargs: Any
    ) -> Tensor:
        nonlocal left
        if left > 0 and type(sequences) in (list, tuple) and not torch.compiler.is_compiling():
            left -= 1
            _note(sequences, padding_value)
        return fill(sequences, batch_first, padding_value, *args, **kwargs)

    return pad_sequence


def _note(texts: list[Any] | tuple[Any, ...], value: float) -> None:
    """Of ids on the CPU, which nobody has to wait for."""
    if value != int(value) or not all(map(_ids, texts)) or len({len(text) for text in texts}) < 2:
        return
    if all(int(text[-1]) == value and int((text == value).sum()) == 1 for text in texts):
        ENDED[int(value)] += 1
    else:
        OTHERS.add(int(value))


def _ids(text: Any) -> bool:
    plain = isinstance(text, Tensor) and text.dim() == 1 and text.device.type == "cpu" and len(text) > 1
    return plain and not text.is_floating_point() and text.dtype is not torch.bool
