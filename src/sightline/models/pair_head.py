"""From two towers' tokens into one space: pooling, projection, temperature and bias.

Shapes: N images, P vision tokens, B texts, T text tokens, D a tower's width, E embedding width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sightline.models.temperature import Temperature
from sightline.recipe.schema import Pair


class PairHead(nn.Module):
    """The connector of a `PairVLM`."""

    def __init__(self, vision_width: int, text_width: int, spec: Pair) -> None:
        super().__init__()
        self.pool_image, self.pool_text = spec.pool, spec.language.pool
        self.norm = nn.LayerNorm(vision_width)
        self.attention = AttentionPool(vision_width) if spec.pool == "attention" else None
        self.image_projection = nn.Linear(vision_width, spec.embed, bias=False)
        self.text_projection = nn.Linear(text_width, spec.embed, bias=False)
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)  # CLIP's released code
        self.temperature = Temperature(1 / spec.temperature, highest=spec.max_scale)
        self.bias = None if spec.bias is None else nn.Parameter(torch.tensor(float(spec.bias)))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that its matrices are held in."""
        return self.image_projection.weight.dtype

    def image(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N E"]:
        """Embeddings of images, of any length. The class token is the first."""
        if self.attention is not None:
            pooled = self.attention(self.norm(features))
        else:
            pooled = self.norm(features[:, 0] if self.pool_image == "class" else features.mean(1))
        return self.image_projection(pooled)

    def text(self, hidden: Float[Tensor, "B T D"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Embeddings of texts, of any length, from right-padded tokens."""
        if self.pool_text == "mean":
            weights = attention_mask.to(hidden.dtype)[:, :, None]
            return self.text_projection((hidden * weights).sum(1) / weights.sum(1))
        if self.pool_text == "first":
            return self.text_projection(hidden[:, 0])
        last = attention_mask.sum(1) - 1 if self.pool_text == "end" else hidden.new_full((len(hidden),), -1).long()
        return self.text_projection(hidden[torch.arange(len(hidden), device=hidden.device), last])


class AttentionPool(nn.Module):
    """One learned query looks at all tokens, then an MLP (SigLIP's head; Zhai et al. 2022, arXiv 2106.04560)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        heads = max(count for count in (12, 8, 4, 2, 1) if width % count == 0)
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.xavier_uniform_(self.query)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Float[Tensor, "N P D"]) -> Float[Tensor, "N D"]:
        query = self.query.expand(len(tokens), -1, -1)
        pooled = self.attend(query, tokens, tokens, need_weights=False)[0][:, 0]
        return pooled + self.mlp(self.norm(pooled))
