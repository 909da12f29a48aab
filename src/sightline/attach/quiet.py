"""A hook that answers nothing, and that no copy of somebody's model takes along."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

_compiling, _tracing = torch.compiler.is_compiling, torch.jit.is_tracing  # found once: they are asked at each call
_transforming = torch._C._functorch.peek_interpreter_stack


class Hook:
    """Calls `act` and returns None, so that the host's values go on unchanged.

    A copied or pickled model (averages of weights, the best model so far, ``torch.save(model)``) gets a function of the
    standard library in its place, which does nothing and loads without Sightline. A graph that torch compiles or
    traces holds nothing of it, and inside `vmap`, `grad` and their kind, where tensors have no memory, it does nothing.
    `fault`: told of the guard's own errors, which are raised without it.
    """

    def __init__(self, act: Callable[..., Any], fault: Callable[[Exception], None] | None = None) -> None:
        self._act, self._fault = act, fault

    def __call__(self, *args: Any) -> None:
        if _compiling() or _tracing() or _transforming() is not None:
            return
        if self._fault is None:
            self._act(*args)
            return
        try:
            self._act(*args)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end somebody's run; it is told, not lost
            self._fault(error)

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")
