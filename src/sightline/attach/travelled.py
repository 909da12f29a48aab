"""How far a new connector got from where it was drawn, beside a language tower that was trained before."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.origins import ORIGINS
from sightline.attach.towers import Towers

SAMPLE = 4096  # elements of a matrix that are kept


class Travelled:
    """Keeps the connector's first weights, where all of it is new, and nothing of the language tower is.

    Tables of tokens do not count there: they are made anew when a token is added.
    """

    def __init__(self, model: nn.Module, towers: Towers, optimizer: Optimizer) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        parts = [(towers.of.get(n), p) for n, p in model.named_parameters() if p.dim() > 1 and id(p) in held]
        new, old = ([p for tower, p in parts if tower == name] for name in ("connector", "language"))
        body = [p for p in old if len(p) < max(map(len, old))]
        apart = bool(new and body) and all(map(ORIGINS.fresh, new)) and all(map(ORIGINS.given, body))
        self._kept = [(p, _some(p).clone()) for p in new] if apart else []

    def far(self) -> float | None:
        """The way over the first weights, in norms; None where the towers are not such. Waits for the device."""
        if not self._kept:
            return None
        way = torch.stack([torch.stack([(_some(p) - was).norm(), was.norm()]) for p, was in self._kept])
        apart, first = way.norm(dim=0).tolist()
        return float(apart / first) if first else None


def _some(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLE)].float()
