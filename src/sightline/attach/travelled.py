"""How far a new connector got from where it was drawn, and a language tower that was trained before, beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.origins import ORIGINS
from sightline.attach.towers import Towers

SAMPLE = 4096  # elements of a matrix that are kept


class Travelled:
    """Keeps the first weights of both, where all of the connector is new, and nothing of the language tower is.

    `aligned`: it was new when it was first taught, and was taught since, while the language tower was not.
    What was drawn may have been scaled since, so that it is neither new nor loaded: then other matrices tell.
    Tables of tokens do not count there: they are made anew when a token is added.
    """

    def __init__(self, model: nn.Module, towers: Towers, optimizer: Optimizer) -> None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        parts = [(towers.of.get(n), p) for n, p in model.named_parameters() if p.dim() > 1 and id(p) in held]
        new, old = ([p for tower, p in parts if tower == name] for name in ("connector", "language"))
        tables = {m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)}
        tables = tables or {max(map(len, old), default=0)}
        body = [p for p in old if len(p) not in tables]
        made = any(map(ORIGINS.fresh, new)) and not any(map(ORIGINS.given, new))
        known = bool(body) and all(map(ORIGINS.given, body))
        taught = bool(new) and all(ORIGINS.began_anew(p) and ORIGINS.moved(p) for p in new)
        self.aligned = known and taught and not made and not any(map(ORIGINS.moved, body))
        self._kept = (
            [[(p, _some(p).clone()) for p in part] for part in (new, body)] if known and (made or self.aligned) else []
        )

    def far(self) -> tuple[float, float] | None:
        """The ways of both over their first weights, in norms; None where they are not such. Waits for the device."""
        found = [_way(part) for part in self._kept]
        return (found[0], found[1]) if found and all(found) else None


def _way(kept: list[tuple[nn.Parameter, Tensor]]) -> float:
    way = torch.stack([torch.stack([(_some(p) - was).norm(), was.norm()]) for p, was in kept])
    apart, first = way.norm(dim=0).tolist()
    return float(apart / first) if first else 0.0


def _some(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLE)].float()
