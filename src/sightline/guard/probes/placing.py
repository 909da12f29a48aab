"""Where one version of an image lies in another one: mirrored, turned, moved; did a target go the same way?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SURE, NEXT = 0.7, 0.85  # correlation of the best way; the next best way's, as a share of it: a plain image has several
SAME, OTHER = 0.85, 0.5  # of the foreground agrees: it went along; it did not
EXACT = 1e-3  # of the image's side: boxes are computed in float32


@dataclass(frozen=True, slots=True)
class Place:
    """Quarter turns, then mirrored from left to right, then moved (down, right)."""

    turns: int
    mirrored: bool
    by: tuple[int, int]

    @property
    def still(self) -> bool:
        """Whether nothing was done."""
        return not self.turns and not self.mirrored and self.by == (0, 0)

    def applied(self, plane: Tensor) -> Tensor:
        """(H, W) as it is put there."""
        return _turned(plane, self.turns, self.mirrored).roll(self.by, (0, 1))


def place(one: Tensor, other: Tensor) -> Place | None:
    """How `one` (H, W) became `other`, whatever its brightness; None where no way, or more than one, explains it."""
    found = sorted(_ways(one, other), key=lambda way: way[0], reverse=True)
    best, where = found[0]
    return where if best >= SURE and all(next_ <= NEXT * best for next_, _ in found[1:]) else None


def masks_go(one: Tensor, other: Tensor, where: Place, shape: torch.Size) -> str | None:
    """Together where the mask moved as the image did, apart where it was mirrored or turned another way, or not at all.

    A mask that was merely moved may be a hole that is drawn anew at each reading.
    """
    ground = float(one.flatten().mode().values)
    if _agree(where.applied(one), other, ground) >= SAME:
        return "together"
    if _agree(where.applied(one), other, ground) > OTHER:
        return None
    flips = (_turned(one, turns, mirrored) for turns in range(4) for mirrored in (False, True))
    return "apart" if any(f.shape == other.shape and _agree(f, other, ground) >= SAME for f in flips) else None


def boxes_go(one: Tensor, other: Tensor, where: Place, shape: torch.Size) -> str | None:
    """The same of boxes (N, 4), in pixels or shares of the image, as corners or as middle and size; mirrored alone."""
    if where.by != (0, 0) or where.turns % 2 or one.shape != other.shape:
        return None
    wide = where.mirrored != (where.turns == 2)  # two quarter turns mirror both ways
    high = where.turns == 2
    size = [1.0, 1.0] if float(one.max()) <= 1 else [float(shape[1]), float(shape[0])]
    for middle in (False, True):
        for less in (0.0, 1.0):  # the last pixel is at size - 1
            moved = one.clone()
            for axis, flip in ((0, wide), (1, high)):
                end = size[axis] - (less if size[axis] > 1 else 0.0)
                if flip and middle:
                    moved[:, axis] = end - one[:, axis]
                elif flip:
                    moved[:, axis], moved[:, axis + 2] = end - one[:, axis + 2], end - one[:, axis]
            if _equal(moved, other, size[0]):
                return "together"
    return "apart" if _equal(one, other, size[0]) else None


def _equal(one: Tensor, other: Tensor, size: float) -> bool:
    return float((one - other).abs().max()) <= EXACT * size


def _agree(one: Tensor, other: Tensor, ground: float) -> float:
    """Share of the foreground of either that is the same in both."""
    either = (one != ground) | (other != ground)
    return float((one == other)[either].double().mean()) if either.any() else 0.0


def _turned(plane: Tensor, turns: int, mirrored: bool) -> Tensor:
    turned = torch.rot90(plane, turns, (0, 1))
    return turned.flip(1) if mirrored else turned


def _ways(one: Tensor, other: Tensor) -> Iterator[tuple[float, Place]]:
    """(correlation, place) of each turn and mirroring, moved to where it fits best (around the edges)."""
    goal = other - other.mean()
    spectrum = torch.fft.rfft2(goal)
    for turns in range(4):
        for mirrored in (False, True):
            turned = _turned(one, turns, mirrored)
            if turned.shape != other.shape:
                continue
            turned = turned - turned.mean()
            fit = torch.fft.irfft2(spectrum * torch.fft.rfft2(turned).conj(), s=goal.shape)
            best = int(fit.argmax())
            norm = float(turned.norm() * goal.norm())
            by = (best // goal.shape[1], best % goal.shape[1])
            yield (float(fit.flatten()[best]) / norm if norm else 0.0), Place(turns, mirrored, by)
