"""Dropping whole branches, and the rates of all dropout in a module as a share of their own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

FIELDS = ("p", "attention_dropout")  # of nn.Dropout and DropPath; of an attention, here and in transformers


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): in training, a row skips the branch with probability p.

    Rows that keep it get it divided by 1 - p, so that its expectation stays.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, branch: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The branch, or in some rows 0."""
        if not self.training or self.p == 0.0:
            return branch
        kept = torch.empty(len(branch), 1, 1, dtype=branch.dtype, device=branch.device).bernoulli_(1 - self.p)
        return branch * kept.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def at_depth(rate: float, layer: int, depth: int) -> float:
    """Layer `layer` (from 0) of `depth`: the last has the whole `rate`, lower ones in proportion (Huang et al.)."""
    return rate * ((layer + 1) / depth)


class Dropouts:
    """All dropout in a module. `share` sets every rate to a share of its own, from whatever it was before."""

    def __init__(self, module: nn.Module) -> None:
        self._rates: list[tuple[nn.Module, str, float]] = []
        for part in module.modules():
            for field in FIELDS:
                rate = getattr(part, field, None)
                if isinstance(rate, float) and (field != "p" or isinstance(part, nn.Dropout | DropPath)):
                    # Its own rate is kept beside it: the stage before may have left another.
                    own = part.__dict__.setdefault(f"_own_{field}", rate)
                    self._rates.append((part, field, own))
        self.share(1.0)

    def __bool__(self) -> bool:
        """Whether anything can be dropped."""
        return any(own for *_, own in self._rates)

    def share(self, share: float) -> None:
        """Rates of `share` times their own."""
        for part, field, own in self._rates:
            setattr(part, field, share * own)
