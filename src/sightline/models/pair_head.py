"""From two towers' tokens into one space: pooling, projection, temperature and bias.

Shapes: N images, P vision tokens, B texts, T text tokens, D a tower's width, E embedding width.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.activations import ACT2FN

from sightline.errors import UserError
from sightline.models.temperature import Temperature
from sightline.models.vision import VisionTower
from sightline.recipe.schema import Pair


class PairHead(nn.Module):
    """The connector of a `PairVLM`.

    CLIP norms the class token and projects both towers without a bias. SigLIP norms in the tower, lets a query pool all
    tokens, takes what comes out as the image's embedding, and projects texts with a bias.

    Raises:
        UserError: nothing projects images, and the vision tower's width is not the common space's.
    """

    def __init__(self, vision: VisionTower, text_width: int, spec: Pair) -> None:
        super().__init__()
        self.pool_image, self.pool_text = spec.pool, spec.language.pool
        width, both = vision.width, spec.project == "both"
        if not both and width != spec.embed:
            raise UserError(
                f"images become {width} numbers and the common space has {spec.embed}, and nothing projects them",
                where="model.pair.embed",
                fix=f"set it to {width}, or model.pair.project to both",
            )
        eps = float(getattr(vision.config, "layer_norm_eps", 1e-5))
        self.norm = nn.Identity() if vision.normed else nn.LayerNorm(width, eps=eps)
        self.attention = AttentionPool(width, vision.config, eps) if spec.pool == "attention" else None
        self.image_projection = nn.Linear(width, spec.embed, bias=False) if both else None
        self.text_projection = nn.Linear(text_width, spec.embed, bias=not both)
        for projection in (self.image_projection, self.text_projection):
            if projection is not None:
                nn.init.normal_(projection.weight, std=projection.in_features**-0.5)  # CLIP's released code
        if self.text_projection.bias is not None:
            nn.init.zeros_(self.text_projection.bias)
        self.temperature = Temperature(1 / spec.temperature, highest=spec.max_scale)
        self.bias = None if spec.bias is None else nn.Parameter(torch.tensor(float(spec.bias)))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that its matrices are held in."""
        return self.text_projection.weight.dtype

    def image(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N E"]:
        """Embeddings of images, of any length. The class token is the first."""
        if self.attention is not None:
            pooled = self.attention(self.norm(features))
        else:
            pooled = self.norm(features[:, 0] if self.pool_image == "class" else features.mean(1))
        return pooled if self.image_projection is None else self.image_projection(pooled)

    def text(self, hidden: Float[Tensor, "B T D"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Embeddings of texts, of any length, from right-padded tokens.

        "end" takes the last token that is no padding (CLIP's end of text), "last" the last of all: its texts are filled
        up to one length by the encoder, and attend to the filling, as SigLIP's do.
        """
        if self.pool_text == "mean":
            weights = attention_mask.to(hidden.dtype)[:, :, None]
            return self.text_projection((hidden * weights).sum(1) / weights.sum(1))
        if self.pool_text == "first":
            return self.text_projection(hidden[:, 0])
        last = attention_mask.sum(1) - 1 if self.pool_text == "end" else hidden.new_full((len(hidden),), -1).long()
        return self.text_projection(hidden[torch.arange(len(hidden), device=hidden.device), last])


class AttentionPool(nn.Module):
    """One learned query looks at all tokens, then an MLP (SigLIP's head; Zhai et al. 2022, arXiv 2106.04560)."""

    def __init__(self, width: int, config: PretrainedConfig, eps: float) -> None:
        super().__init__()
        fitting = max(count for count in (12, 8, 4, 2, 1) if width % count == 0)
        heads = int(getattr(config, "num_attention_heads", fitting))
        hidden = int(getattr(config, "intermediate_size", 4 * width))
        activation = ACT2FN[getattr(config, "hidden_act", "gelu")]
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.xavier_uniform_(self.query)
        self.attend = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), activation, nn.Linear(hidden, width))

    def forward(self, tokens: Float[Tensor, "N P D"]) -> Float[Tensor, "N D"]:
        query = self.query.expand(len(tokens), -1, -1)
        pooled = self.attend(query, tokens, tokens, need_weights=False)[0][:, 0]
        return pooled + self.mlp(self.norm(pooled))
