"""How linear maps in connectors' layers start, where a recipe does not leave it to the released code."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from sightline.recipe.schema import Start

FUSED = ("key_value",)  # two maps in one matrix: each is a map by itself


@torch.no_grad()
def start_maps(layers: nn.Module, last: Iterable[nn.Linear], start: Start) -> None:
    """Start the linear maps in `layers` as `start` says. `last`: the map at the end of each residual branch.

    Xavier (Glorot & Bengio 2010): uniform within sqrt(6 / (fan-in + fan-out)), biases 0. A branch whose last map is 0
    adds nothing at first (Goyal et al. 2017, arXiv 1706.02677, section 5.1; Zhang et al. 2019, arXiv 1901.09321).
    """
    if start.weights == "xavier":
        for name, part in layers.named_modules():
            if isinstance(part, nn.Linear):
                for one in part.weight.chunk(2) if name.endswith(FUSED) else [part.weight]:
                    nn.init.xavier_uniform_(one)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)
    if start.residual == "zero":
        for part in last:
            nn.init.zeros_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
