"""Perceiver resampler: a fixed number of learned latents look at an image's features, layer after layer.

Flamingo (arXiv 2204.14198, section 3.1 and figure 5): 64 latents, 6 layers; keys and values are the features and the
latents together. Its time embeddings, for frames of videos, have no counterpart here. Norms stand before each branch,
unless the recipe's `connector.layers` asks for others.

Shapes: N images, P vision tokens, Q latents, D width.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sightline.errors import UserError
from sightline.models.layers.dropout import DropPath, at_depth
from sightline.models.layers.norm import HeadNorm, make_norm
from sightline.models.layers.start import start_maps
from sightline.recipe.schema import ConnectorSpec, Layers, Start

LATENTS = 64
LAYERED = True  # `connector.layers` and `connector.start` are read
SHAPE = {"depth": 6, "heads": 8, "head_width": 64}  # section 3.1 and OpenFlamingo's defaults
WHERE = "model.compose.connector"
PLAIN, RELEASED = Layers(), Start()


def tokens(count: int, spec: ConnectorSpec) -> int:
    """The latents, however many vision tokens there are."""
    return spec.queries or LATENTS


def build(width_in: int, width_out: int, spec: ConnectorSpec) -> nn.Module:
    """(N, P, width_in) -> (N, Q, width_out). Raises UserError for an unknown field of `config`."""
    no_copy(spec)
    resampler = Resampler(width_in, spec.queries or LATENTS, **shape(spec), layers=spec.layers, start=spec.start)
    return Perceiver(resampler, nn.Linear(width_in, width_out))


def no_copy(spec: ConnectorSpec) -> None:
    """Raises UserError where cross-attention is to start as self-attention, which these layers have not."""
    if spec.start.cross is not None:
        what = f"a {spec.kind} has no self-attention of its own to copy"
        raise UserError(what, where=f"{WHERE}.start.cross", fix="leave it out")


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

    def __init__(self, width: int, width_seen: int, heads: int, head_width: int, *, layers: Layers = PLAIN) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_width
        self.attention_dropout = float(layers.attention_dropout or 0.0)
        self.head_norm = HeadNorm(head_width) if layers.qk_norm else None
        self.query = nn.Linear(width, inner, bias=False)
        self.key_value = nn.Linear(width_seen, 2 * inner, bias=False)
        self.out = nn.Linear(inner, width, bias=False)

    def forward(self, asking: Tensor, seen: Tensor, sight: Bool[Tensor, "B 1 T S"] | None = None) -> Tensor:
        """`sight`: what may be looked at; a row that may look at nothing gets zeros."""
        query, (key, value) = self._split(self.query(asking)), map(self._split, self.key_value(seen).chunk(2, -1))
        if self.head_norm is not None:
            query, key = self.head_norm(query, key)
        dropout = self.attention_dropout if self.training else 0.0
        if sight is None:
            found = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout)
        else:
            blind = ~sight.any(-1, keepdim=True)
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=sight | blind, dropout_p=dropout)
            found = found.masked_fill(blind, 0.0)
        return self.out(found.transpose(1, 2).flatten(2))

    def _split(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def feed_forward(width: int, layers: Layers = PLAIN) -> nn.Sequential:
    """A norm, then an MLP of four times the width, without biases (OpenFlamingo)."""
    wide = 4 * width
    return nn.Sequential(
        make_norm(layers.norm, width), nn.Linear(width, wide, bias=False), nn.GELU(), nn.Linear(wide, width, bias=False)
    )


class ResamplerLayer(nn.Module):
    """Latents look at features and at each other, then an MLP; both with residual connections."""

    def __init__(self, width: int, heads: int, head_width: int, *, layers: Layers = PLAIN, path: float = 0.0) -> None:
        super().__init__()
        self.norm_features, self.norm_latents = make_norm(layers.norm, width), make_norm(layers.norm, width)
        self.attention = Attention(width, width, heads, head_width, layers=layers)
        self.mlp = feed_forward(width, layers)
        self.path, self.post = DropPath(path), layers.place == "post"

    @property
    def last(self) -> list[nn.Linear]:
        """The last map of each branch."""
        return [part for part in (self.attention.out, self.mlp[-1]) if isinstance(part, nn.Linear)]

    def forward(self, latents: Float[Tensor, "N Q D"], features: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q D"]:
        asking = latents if self.post else self.norm_latents(latents)
        seen = torch.cat([self.norm_features(features), asking], 1)
        latents = latents + self.path(self.attention(asking, seen))
        if not self.post:
            return latents + self.path(self.mlp(latents))
        latents = self.norm_latents(latents)
        return self.mlp[0](latents + self.path(self.mlp[1:](latents)))


class Resampler(nn.Module):
    """(N, P, D) -> (N, Q, D)."""

    def __init__(
        self,
        width: int,
        count: int,
        depth: int,
        heads: int,
        head_width: int,
        *,
        layers: Layers = PLAIN,
        start: Start = RELEASED,
    ) -> None:
        super().__init__()
        # As wide as in Perceiver's and OpenFlamingo's code, unless the recipe says.
        self.latents = nn.Parameter(torch.randn(count, width) * (start.queries or 1.0))
        paths = [at_depth(layers.path_dropout, number, depth) for number in range(depth)]
        made = [ResamplerLayer(width, heads, head_width, layers=layers, path=path) for path in paths]
        self.layers = nn.ModuleList(made)
        self.norm = make_norm(layers.norm, width)
        start_maps(self.layers, [part for layer in made for part in layer.last], start)

    def forward(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q D"]:
        latents = self.latents.expand(len(features), -1, -1)
        for layer in self.layers:
            latents = layer(latents, features)
        return self.norm(latents)


class Perceiver(nn.Sequential):
    """A resampler, and a linear map to the language tower's width."""

    @property
    def blocks(self) -> list[nn.Module]:
        """Its layers, first to last."""
        return list(cast(Resampler, self[0]).layers)
