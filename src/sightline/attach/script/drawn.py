"""Notes the orders that a script draws: rows put into one of them must take their labels along (`attach/partners.py`).

A shuffle in place tells no order: the state of its generator is kept, and the shuffle is done again when asked for.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sightline.attach.partners import DRAWN, KEPT, LEAST, MOST
from sightline.attach.script.imports import Notice

OTHERS = "torch.", "sightline."  # who draw for whole rows, as loaders do, or for themselves


def install() -> None:
    """From now on; of NumPy, from when it is imported."""
    torch.randperm = _noted(torch.randperm, _of_torch)
    random.shuffle = _noted(random.shuffle, _again)
    Notice({"numpy": _wrap}).install()


def _wrap() -> None:
    numbers: Any = sys.modules["numpy"].random
    numbers.shuffle = _noted(numbers.shuffle, _again_in_numpy)
    numbers.permutation = _noted(numbers.permutation, _again_in_numpy)


def _noted(draw: Callable[..., Any], keep: Callable[..., Callable[[Any], Callable[[], Sequence[int]]]]) -> Any:
    @functools.wraps(draw)
    def drawing(*args: Any, **kwargs: Any) -> Any:
        size = args[0] if len(args) == 1 else 0
        count = size if isinstance(size, int) else len(size) if hasattr(size, "__len__") else 0
        apart = not LEAST <= count <= MOST or len(DRAWN) >= KEPT or torch.compiler.is_compiling()
        if apart or str(sys._getframe(1).f_globals.get("__name__")).startswith(OTHERS):
            return draw(*args, **kwargs)
        then = keep(count)
        made = draw(*args, **kwargs)
        DRAWN.append(then(made))
        return made

    return drawing


def _of_torch(count: int) -> Callable[[Any], Callable[[], Sequence[int]]]:
    def then(made: Tensor) -> Callable[[], Sequence[int]]:
        kept = made.clone()
        return lambda: kept.tolist() if kept.dim() == 1 else []

    return then


def _again(count: int) -> Callable[[Any], Callable[[], Sequence[int]]]:
    state = random.getstate()

    def order() -> Sequence[int]:
        line, generator = list(range(count)), random.Random()
        generator.setstate(state)
        generator.shuffle(line)
        return line

    return lambda made: order


def _again_in_numpy(count: int) -> Callable[[Any], Callable[[], Sequence[int]]]:
    numbers: Any = sys.modules["numpy"].random
    state = numbers.get_state()

    def order() -> Sequence[int]:
        generator = numbers.RandomState()
        generator.set_state(state)
        return list(generator.permutation(count).tolist())

    return lambda made: order
