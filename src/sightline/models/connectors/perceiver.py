"""Perceiver resampler: a fixed number of learned latents look at an image's features, layer after layer.

Flamingo (arXiv 2204.14198, section 3.1 and figure 5): 64 latents, 6 layers; keys and values are the features and the
latents together. Its time embeddings, for frames of videos, have no counterpart here.

Shapes: N images, P vision tokens, Q latents, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sightline.errors import UserError
from sightline.recipe.schema import ConnectorSpec

LATENTS = 64
SHAPE = {"depth": 6, "heads": 8, "head_width": 64}  # section 3.1 and OpenFlamingo's defaults
WHERE = "model.compose.connector"


def tokens(count: int, spec: ConnectorSpec) -> int:
    """The latents, however many vision tokens there are."""
    return spec.queries or LATENTS


def build(width_in: int, width_out: int, spec: ConnectorSpec) -> nn.Module:
    """(N, P, width_in) -> (N, Q, width_out). Raises UserError for an unknown field of `config`."""
    return nn.Sequential(Resampler(width_in, spec.queries or LATENTS, **shape(spec)), nn.Linear(width_in, width_out))


def shape(spec: ConnectorSpec, **further: int) -> dict[str, int]:
    """Depth, heads and width of a head as the recipe's `config` says them, and what it says of `further` fields."""
    known: dict[str, Any] = SHAPE | further
    told = spec.config or {}
    if unknown := sorted(set(told) - set(known)):
        fix = f"known: {', '.join(known)}"
        raise UserError(f"a {spec.kind} has no {', '.join(unknown)}", where=f"{WHERE}.config", fix=fix)
    if bad := [name for name, value in told.items() if not isinstance(value, int) or value < 1]:
        raise UserError(f"{', '.join(bad)} must be a whole number above 0", where=f"{WHERE}.config")
    return known | told


class Attention(nn.Module):
    """Multi-head cross-attention without biases: `forward((B, T, D), (B, S, K)) -> (B, T, D)`."""

    def __init__(self, width: int, width_seen: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width_seen, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, asking: Tensor, seen: Tensor, sight: Bool[Tensor, "B 1 T S"] | None = None) -> Tensor:
        """`sight`: what may be looked at; a row that may look at nothing gets zeros."""
        query, (key, value) = self._split(self.query(asking)), map(self._split, self.key_value(seen).chunk(2, -1))
        if sight is None:
            found = F.scaled_dot_product_attention(query, key, value)
        else:
            blind = ~sight.any(-1, keepdim=True)
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=sight | blind).masked_fill(blind, 0.0)
        return self.out(found.transpose(1, 2).flatten(2))

    def _split(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def feed_forward(width: int) -> nn.Sequential:
    """LayerNorm, then an MLP of four times the width, without biases (OpenFlamingo)."""
    wide = 4 * width
    return nn.Sequential(
        nn.LayerNorm(width), nn.Linear(width, wide, bias=False), nn.GELU(), nn.Linear(wide, width, bias=False)
    )


class ResamplerLayer(nn.Module):
    """Latents look at features and at each other, then an MLP; both with residual connections."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.norm_features, self.norm_latents = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, width, heads, head_width)
        self.mlp = feed_forward(width)

    def forward(self, latents: Float[Tensor, "N Q D"], features: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q D"]:
        asking = self.norm_latents(latents)
        seen = torch.cat([self.norm_features(features), asking], 1)
        latents = latents + self.attention(asking, seen)
        return latents + self.mlp(latents)


class Resampler(nn.Module):
    """(N, P, D) -> (N, Q, D)."""

    def __init__(self, width: int, count: int, depth: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(count, width))  # as in Perceiver's and OpenFlamingo's code
        self.layers = nn.ModuleList(ResamplerLayer(width, heads, head_width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q D"]:
        latents = self.latents.expand(len(features), -1, -1)
        for layer in self.layers:
            latents = layer(latents, features)
        return self.norm(latents)
