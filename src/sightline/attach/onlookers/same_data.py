"""Are two data sets made of the same data, though shown otherwise: one augmented, the other not?"""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import numpy as np
from torch import Tensor

ROWS = 64  # of an array that are compared, evenly spaced
ARRAYS = (Tensor, np.ndarray)


def same_data(one: Any, other: Any) -> bool:
    """Whether all that they hold is equal, functions aside, and some of it has an entry for each sample.

    They may differ in a switch if they share an array of samples in memory: else it may choose a folder.
    """
    mine, others = getattr(one, "__dict__", None), getattr(other, "__dict__", None)
    if type(one) is not type(other) or not mine or others is None or mine.keys() != others.keys():
        return False
    if len(one) != len(other):
        return False
    pairs = [(value, others[name]) for name, value in mine.items()]
    held = [(a, b) for a, b in pairs if not (_shows(a) and _shows(b))]
    switched = any(isinstance(a, bool) and a is not b for a, b in held)
    if not all((isinstance(a, bool) and isinstance(b, bool)) or _equal(a, b) for a, b in held):
        return False
    samples = [(a, b) for a, b in held if isinstance(a, (*ARRAYS, list, tuple)) and len(one) == _length(a)]
    return any(_shared(a, b) for a, b in samples) if switched else bool(samples)


def _shows(value: Any) -> bool:
    """A transform, or none."""
    return value is None or callable(value)


def _length(value: Any) -> int:
    return 0 if isinstance(value, ARRAYS) and not value.ndim else len(value)


def _shared(one: Any, other: Any) -> bool:
    """Whether both are one array of rows."""
    if not isinstance(one, ARRAYS) or one.ndim < 2:
        return False
    return one is other or (isinstance(one, Tensor) and one.data_ptr() == other.data_ptr())


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    try:
        if isinstance(one, ARRAYS):
            few = slice(None, None, max(1, _length(one) // ROWS)) if one.ndim else ...
            return one.shape == other.shape and one.dtype == other.dtype and bool((one[few] == other[few]).all())
        plain = isinstance(one, int | float | str | bytes | PurePath | list | tuple | dict | set)
        return plain and bool(one == other)  # of others, nobody knows what they are
    except (RuntimeError, ValueError):  # arrays inside, or on two devices
        return False
