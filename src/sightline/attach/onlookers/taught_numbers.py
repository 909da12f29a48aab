"""Labels that a loss teaches, whatever they are: classes, tags, or numbers of a squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.attach.classes import Taught, may_teach_classes, tags_taught

NUMBERS = 16  # of a row's label
SCALES = 0.5, 1.0  # of a gradient of means over outputs or rows, or of sums: with a squared error's 2, or halved
SAME, KEPT = 1e-3, 0.3  # of the numbers' spread; of the rows that came back: a Huber loss hides the far ones
AGAIN, ENOUGH = 32, 256  # rows that came back
FIRST, LONGEST = 2048, 1 << 15  # rows that may; that are read until enough have


class Reader:
    """Reads batch after batch. Numbers count if rows that come back have the same ones: then the loss is known, too."""

    def __init__(self) -> None:
        self._taught, self._rows, self._read = Taught(), 0, 0
        self._first: dict[int, tuple[Tensor, Tensor]] = {}
        self._again: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    @property
    def waits(self) -> bool:
        """Whether numbers were read, and too few rows came back."""
        return bool(self._first) and len(self._again) < ENOUGH and self._read < LONGEST

    def read(self, prints: Tensor, logits: Tensor, grad: Tensor) -> Tensor | None:
        """(B, 1) classes, (B, C) tags, or (B, 2, numbers) outputs and their gradients."""
        may = may_teach_classes(logits.detach().requires_grad_(), len(logits))
        if may and (classes := self._taught.classes(logits, grad)) is not None:
            return torch.tensor(classes)[:, None]
        if may and tags_taught(logits, grad) is not None:
            return (grad < 0).float()
        z, g = (one.float().reshape(len(one), -1) for one in (logits, grad))
        if z.shape[1] > NUMBERS or not torch.isfinite(z).all() or not torch.isfinite(g).all():
            return None
        self._rows = len(z)
        self._read += len(z)
        g = g * len(z)
        for row, one, pull in zip(prints.tolist(), z, g, strict=True):
            before = self._first.get(row)
            if before is None and len(self._first) < FIRST:
                self._first[row] = one, pull
            elif before is not None and len(self._again) < ENOUGH:
                self._again.append((*before, one, pull))
        return torch.stack([z, g], dim=1)

    def numbers(self, labels: list[Tensor]) -> list[Tensor] | None:
        """Labels as they are; of outputs and gradients the numbers, None where these did not stay what they were."""
        if not labels or labels[0].dim() != 3:
            return labels
        if len(self._again) < AGAIN:
            return None
        columns = labels[0].shape[2]
        z, g, later, pull = (torch.stack(list(part)) for part in zip(*self._again, strict=True))
        best = max(
            ((scale * size, z, g, later, pull) for scale in SCALES for size in {1, columns, 1 / self._rows}),
            key=lambda one: _kept(*one),
        )
        outputs, grads = labels[0].unbind(dim=1)
        return [outputs - best[0] * grads] if _kept(*best) >= KEPT else None


def _kept(scale: float, z: Tensor, g: Tensor, later: Tensor, pull: Tensor) -> float:
    """The share of rows that have the same numbers again, under a scale of the gradients."""
    one, other = z - scale * g, later - scale * pull
    near = SAME * torch.cat([one, other]).std(dim=0).clamp(min=1e-12)
    moved = (z - later).abs() > 2 * near
    return float((((one - other).abs() <= near) & moved).all(dim=1).sum() / max(1, int(moved.all(dim=1).sum())))
