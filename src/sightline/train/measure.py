"""Per-tower numbers of a step: gradient norms, and how far an update moves the weights. Taken only where logged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

SAMPLE = 1 << 16  # elements of a parameter that are watched: exact for small towers, an estimate for large ones


def gradient_norms(towers: Mapping[str, Sequence[Tensor]], total: float, clip: float | None) -> dict[str, float]:
    """L2 norm of each tower's gradients before they were clipped from the norm `total` to `clip`."""
    shrunk = min(1.0, clip / total) if clip is not None and total > 0 else 1.0
    norms = {}
    for tower, parameters in towers.items():
        gradients = [p.grad for p in parameters if p.grad is not None]
        norms[tower] = float(torch.stack(torch._foreach_norm(gradients)).norm()) / shrunk if gradients else 0.0
    return norms


class UpdateRatio:
    """Norm of the update over norm of the weights, per tower; healthy values lie about 1e-3 (Karpathy 2019)."""

    def __init__(self, towers: Mapping[str, Sequence[Tensor]]) -> None:
        self._towers = towers
        self._before = {tower: [self._sample(p).clone() for p in parameters] for tower, parameters in towers.items()}

    @staticmethod
    def _sample(parameter: Tensor) -> Tensor:
        return parameter.detach().flatten()[:SAMPLE]

    def after_step(self) -> dict[str, float]:
        """The ratio of the step taken since this object was made."""
        ratios = {}
        for tower, before in self._before.items():
            after = [self._sample(p) for p in self._towers[tower]]
            moved = torch.stack(torch._foreach_norm(torch._foreach_sub(after, before))).norm()
            size = torch.stack(torch._foreach_norm(before)).norm()
            ratios[tower] = float(moved / size.clamp_min(1e-12))
        return ratios
