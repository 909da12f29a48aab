"""Gated cross-attention: layers before the language tower's blocks look at the image, and begin by adding nothing.

Flamingo (arXiv 2204.14198, section 3.1.2 and figure 4): a Perceiver resampler makes Q latents of each image; before
every k-th block of the language tower a layer adds tanh(gate) x cross-attention to the hidden states and tanh(gate) x
MLP after it. Gates start at 0, so the language tower's output is at first what it was without images, to the last bit.

A word looks at the last image before it, and at no other (section 3.1.3); a word before any image looks at nothing.

Shapes: B rows, T tokens, I images a row, Q latents, D width of vision, H width of language.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sightline.errors import UserError
from sightline.models.connectors.perceiver import (
    LATENTS,
    PLAIN,
    WHERE,
    Attention,
    Resampler,
    feed_forward,
    no_copy,
    shape,
)
from sightline.models.layers.dropout import DropPath, at_depth
from sightline.models.layers.norm import make_norm
from sightline.models.layers.start import start_maps
from sightline.recipe.schema import ConnectorSpec, Layers

EVERY = 4  # blocks; OpenFlamingo's 9B model
LAYERED = True  # `connector.layers` and `connector.start` are read


def tokens(count: int, spec: ConnectorSpec) -> int:
    """One: the placeholder says where in the text the image stands, and takes no token's place."""
    return 1


def build(width_in: int, width_out: int, spec: ConnectorSpec) -> nn.Module:
    """The resampler; `reach` adds the layers once the language tower's depth is known.

    Raises:
        UserError: switches under which the layers would not begin by adding nothing, or would never add anything.
    """
    no_copy(spec)
    if spec.layers.place == "post":
        what = "norms behind the sums would change what the language tower says before anything is learned"
        raise UserError(what, where=f"{WHERE}.layers.place", fix="leave it out: gated layers have them before")
    if spec.start.residual is not None:
        what = "gates at 0 in front of maps at 0 would pass no gradient to each other, ever"
        raise UserError(what, where=f"{WHERE}.start.residual", fix="leave it out: gates at 0 do the same")
    return GatedCrossAttention(width_in, width_out, spec)


class GatedLayer(nn.Module):
    """Adds what the text sees of its image to the hidden states."""

    def __init__(
        self, width: int, width_seen: int, heads: int, head_width: int, *, layers: Layers = PLAIN, path: float = 0.0
    ) -> None:
        super().__init__()
        self.norm: nn.LayerNorm | nn.RMSNorm = make_norm(layers.norm, width)
        self.attention = Attention(width, width_seen, heads, head_width, layers=layers)
        self.mlp, self.path = feed_forward(width, layers), DropPath(path)
        self.attention_gate, self.mlp_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(
        self, hidden: Float[Tensor, "B T H"], seen: Float[Tensor, "B S D"], sight: Bool[Tensor, "B 1 T S"]
    ) -> Float[Tensor, "B T H"]:
        dtype = hidden.dtype
        looked = self.attention(self.norm(hidden.to(self.norm.weight.dtype)), seen, sight)
        hidden = hidden + self.path((self.attention_gate.tanh() * looked).to(dtype))
        # Where there is no image yet nothing may change, the MLP's share included.
        thought = self.mlp(hidden.to(self.norm.weight.dtype)) * sight.any(-1).transpose(1, 2)
        return hidden + self.path((self.mlp_gate.tanh() * thought).to(dtype))


class GatedCrossAttention(nn.Module):
    """The connector: a resampler and the gated layers. `forward` makes the latents alone."""

    def __init__(self, width_in: int, width_out: int, spec: ConnectorSpec) -> None:
        super().__init__()
        told = shape(spec, every=EVERY)
        self.every, self._width = told.pop("every"), width_out
        self._heads = {name: told[name] for name in ("heads", "head_width")}
        self._layers, self._start = spec.layers, spec.start
        self.resampler = Resampler(width_in, spec.queries or LATENTS, **told, layers=spec.layers, start=spec.start)
        self.layers = nn.ModuleList()

    def reach(self, depth: int) -> None:
        """Make a layer before each `every`-th of `depth` blocks: before the first, and so on."""
        width_seen = self.resampler.latents.shape[1]
        count = -(-depth // self.every)
        paths = [at_depth(self._layers.path_dropout, number, count) for number in range(count)]
        self.layers = nn.ModuleList(
            GatedLayer(self._width, width_seen, **self._heads, layers=self._layers, path=path) for path in paths
        )
        start_maps(self.layers, (), self._start)

    @property
    def blocks(self) -> list[nn.Module]:
        """The gated layers, first to last."""
        return list(self.layers)

    def forward(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q D"]:
        return self.resampler(features)
