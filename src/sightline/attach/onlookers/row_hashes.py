"""What rows are known by: their bytes, hashed."""

from __future__ import annotations

from torch import Tensor

from sightline.guard.probes.restore import as_bytes

PARTS = 4  # of a row


def hashes(values: list[Tensor]) -> list[bytes]:
    """Sixteen bytes for each row; padding at a row's end, the same value over and over, does not count."""
    from hashlib import blake2b

    columns = [[_bare(row) if not value.is_floating_point() else _bytes(row) for row in value] for value in values]
    return [blake2b(b"|".join(parts), digest_size=16).digest() for parts in zip(*columns, strict=True)]


def parts_of(row: Tensor) -> tuple[int, ...]:
    """Hashes of its parts."""
    return tuple(hash(_bytes(part)) for part in row.chunk(PARTS))


def keys(parts: list[tuple[int, ...]]) -> int:
    """Of the parts of rows, those that are another in each row."""
    return sum(len(set(part)) == len(part) for part in zip(*parts, strict=False))


def _bare(row: Tensor) -> bytes:
    """The ids without what pads them: hidden ones (-1), or two and more of the same at the end."""
    other = (row != row[-1]).nonzero()
    end = int(other[-1]) + 1 if len(other) else 0
    return _bytes(row[:end] if int(row[-1]) == -1 or len(row) - end > 1 else row)


def _bytes(row: Tensor) -> bytes:
    return as_bytes(row).numpy().tobytes()
