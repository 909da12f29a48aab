"""Looks for values in files that were written in a way that nobody hears, by pickle or by NumPy.

They write numbers one after the other, as these are in memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

RUN = 16  # values in a row: 16 x 24 random bits are nowhere by chance
DEPTH, SEEN = 2, 4096  # folders below, and files of any age
FILES, BYTES = 200, 1 << 29  # files and bytes that are looked through: half a second
FORMATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def run_of(tensor: Tensor) -> Tensor | None:
    """A few of its values in a row, on the CPU; None where they say nothing (too few, or equal ones)."""
    middle = max(0, tensor.numel() // 2 - RUN // 2)
    values = tensor.detach().reshape(-1)[middle : middle + RUN].to("cpu", copy=True)
    return values if len(values) == RUN and len(values.unique()) > RUN // 2 else None


def around(path: str) -> Path:
    """The folder that has a file's folder; the present one where it is not known."""
    return Path(path).absolute().parent.parent if path else Path.cwd()


def written(runs: Sequence[Tensor], folder: Path, since: float) -> bool:
    """Whether a file in `folder` or below, of after `since` (seconds), has any of `runs` in it, in whatever format."""
    keys = {_bytes(run.to(kind)) for run in runs for kind in (run.dtype, *FORMATS)}
    return bool(keys) and any(_has(path, keys) for path in _files(folder, since))


def _files(folder: Path, since: float) -> Iterator[Path]:
    count = size = seen = 0
    for place, folders, names in os.walk(folder):
        if len(Path(place).relative_to(folder).parts) >= DEPTH:
            folders.clear()
        for name in names:
            path, seen = Path(place, name), seen + 1
            found = path.stat() if path.is_file() else None
            if seen > SEEN:
                return
            if found is None or found.st_mtime < since or not found.st_size:
                continue
            count, size = count + 1, size + found.st_size
            if count > FILES or size > BYTES:
                return
            yield path


def _has(path: Path, keys: Iterable[bytes]) -> bool:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return any(content.find(key) >= 0 for key in keys)
    except (OSError, ValueError):
        return False


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()
