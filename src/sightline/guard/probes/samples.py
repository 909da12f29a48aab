"""The samples of a data set, as a forked worker of ours reads them: what is in one, and without a word."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def quiet_worker(worker: int) -> None:
    """What a data set prints as it is read belongs to the host's own readings."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - for the worker's short life


def arrays_of(value: Any) -> Iterator[Tensor]:
    """The tensors, arrays and pictures of a sample."""
    if isinstance(value, Tensor):
        yield value.detach()
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from arrays_of(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from arrays_of(part)
    elif (array := array_of(value)) is not None:
        yield array


def array_of(value: Any) -> Tensor | None:
    """An array or a picture as a tensor; None for what is neither, or holds no numbers."""
    array = hasattr(value, "__array__") and hasattr(value, "dtype")
    picture = hasattr(value, "__array_interface__") and hasattr(value, "getbands")  # of Pillow
    if not array and not picture:
        return None
    import numpy

    numbers = numpy.asarray(value)
    return torch.from_numpy(numbers.copy()) if numbers.dtype.kind in "biuf" else None
