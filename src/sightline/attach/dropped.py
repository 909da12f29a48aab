"""Columns that a Trainer takes out of its rows, because the model's `forward` has no argument of that name.

A `forward(..., **kwargs)` may ask for one all the same, by a name that stands in its code.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any


def dropped(trainer: Any, columns: Iterable[str]) -> tuple[str, ...]:
    """Those of `columns` that are taken out, and that the model's own code names among its keyword arguments."""
    kept = getattr(trainer, "_signature_columns", None)
    if kept is None or not getattr(getattr(trainer, "args", None), "remove_unused_columns", False):
        return ()
    return asked_for(getattr(trainer, "model", None), [name for name in columns if name not in kept])


def asked_for(model: Any, columns: Iterable[str]) -> tuple[str, ...]:
    """Those of `columns` that the model's own code names among its keyword arguments."""
    wrapped = hasattr(model, "peft_config") and hasattr(model, "get_base_model")
    forward = getattr(type(model.get_base_model() if wrapped else model), "forward", None)
    named = _asks_for(inspect.unwrap(forward)) if forward is not None else set()
    return tuple(name for name in columns if name in named)


def _asks_for(function: Any) -> set[str]:
    """The texts in the code of a function that takes any keyword."""
    code = getattr(function, "__code__", None)
    if code is None or not code.co_flags & inspect.CO_VARKEYWORDS:
        return set()
    told = {function.__doc__}
    return {text for text in code.co_consts if isinstance(text, str)} - told
