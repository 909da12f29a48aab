"""A Q-Former's layers, where a recipe asks for others than transformers' `Blip2QFormerModel` has.

Parameters have the names that they have there, and with norms behind the sums (`post`) the numbers are the same. With
norms before the branches (`pre`; Xiong et al. 2020, arXiv 2002.04745, figure 1) the norm that transformers calls
`output.LayerNorm` is the one its branch reads through, and one more stands at the end.

Shapes: B rows, L queries and words, Q queries, P vision tokens, H width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.activations import ACT2FN

from sightline.models.layers.dropout import DropPath, at_depth
from sightline.models.layers.norm import HeadNorm, make_norm
from sightline.recipe.schema import Layers


@dataclass(frozen=True, slots=True)
class Hidden:
    """What `FormerBody` gives, by the name that transformers has for it."""

    last_hidden_state: Float[Tensor, "B L H"]


class FormerBody(nn.Module):
    """Stands in for `Blip2QFormerModel`: see the module."""

    def __init__(self, config: Blip2QFormerConfig, layers: Layers) -> None:
        super().__init__()
        self.layernorm = make_norm(layers.norm, config.hidden_size, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.encoder = Encoder(config, layers)
        last = make_norm(layers.norm, config.hidden_size, config.layer_norm_eps)
        self.final_norm: nn.Module = last if layers.place == "pre" else nn.Identity()
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=config.initializer_range)
                nn.init.zeros_(part.bias)

    def forward(
        self,
        query_embeds: Float[Tensor, "B L H"],
        query_length: int | None = None,
        attention_mask: Float[Tensor, "B 1 _ L"] | None = None,
        encoder_hidden_states: Float[Tensor, "B P D"] | None = None,
    ) -> Hidden:
        """`query_length`: how many of the tokens are queries (None: all). `attention_mask`: added to the logits."""
        queries = query_embeds.shape[1] if query_length is None else query_length
        hidden = self.dropout(self.layernorm(query_embeds))
        seen = None if encoder_hidden_states is None else encoder_hidden_states.to(query_embeds.dtype)
        for layer in self.encoder.layer:
            hidden = layer(hidden, attention_mask, seen, queries)
        return Hidden(self.final_norm(hidden))


class Encoder(nn.Module):
    """The layers, under the name that transformers keeps them by."""

    def __init__(self, config: Blip2QFormerConfig, layers: Layers) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Layer(config, layers, number) for number in range(config.num_hidden_layers))


class Layer(nn.Module):
    """Self-attention of all, cross-attention of the queries in some layers, an MLP for queries and one for words."""

    def __init__(self, config: Blip2QFormerConfig, layers: Layers, number: int) -> None:
        super().__init__()
        path = at_depth(layers.path_dropout, number, config.num_hidden_layers)
        self.has_cross_attention = number % config.cross_attention_frequency == 0
        self.attention = Attended(config, layers, path, config.hidden_size)
        if self.has_cross_attention:
            self.crossattention = Attended(config, layers, path, config.encoder_hidden_size)
        self.intermediate, self.intermediate_query = Widened(config), Widened(config)
        self.output, self.output_query = (Output(config, layers, path, config.intermediate_size) for _ in range(2))

    def forward(
        self, hidden: Float[Tensor, "B L H"], mask: Tensor | None, seen: Float[Tensor, "B P D"] | None, queries: int
    ) -> Float[Tensor, "B L H"]:
        hidden = self.attention(hidden, mask)
        asking, words = hidden[:, :queries], hidden[:, queries:]
        if queries:
            if self.has_cross_attention:
                asking = self.crossattention(asking, None, seen)
            asking = self.output_query(asking, self.intermediate_query)
        if words.shape[1]:
            words = self.output(words, self.intermediate)
        return torch.cat([asking, words], 1)


class Attended(nn.Module):
    """Attention as a residual branch, to the tokens themselves or to what is `seen`."""

    def __init__(self, config: Blip2QFormerConfig, layers: Layers, path: float, width_seen: int) -> None:
        super().__init__()
        self.attention = Attention(config, layers, width_seen)
        self.output = Output(config, layers, path, config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor | None, seen: Tensor | None = None) -> Tensor:
        return self.output(hidden, lambda asking: self.attention(asking, asking if seen is None else seen, mask))


class Attention(nn.Module):
    """Multi-head attention, `forward((B, L, H), (B, S, D)) -> (B, L, H)`, without its last map."""

    def __init__(self, config: Blip2QFormerConfig, layers: Layers, width_seen: int) -> None:
        super().__init__()
        width, self.num_attention_heads = config.hidden_size, config.num_attention_heads
        self.query, self.key, self.value = (nn.Linear(size, width) for size in (width, width_seen, width_seen))
        self.head_norm = HeadNorm(width // config.num_attention_heads) if layers.qk_norm else None
        self.attention_dropout = float(config.attention_probs_dropout_prob)

    def forward(self, asking: Tensor, seen: Tensor, mask: Tensor | None) -> Tensor:
        query, key, value = map(self._split, (self.query(asking), self.key(seen), self.value(seen)))
        if self.head_norm is not None:
            query, key = self.head_norm(query, key)
        dropout = self.attention_dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return read.transpose(1, 2).flatten(2)

    def _split(self, flat: Tensor) -> Tensor:
        return flat.unflatten(-1, (self.num_attention_heads, -1)).transpose(1, 2)


class Widened(nn.Module):
    """The first map of an MLP, and its activation."""

    def __init__(self, config: Blip2QFormerConfig) -> None:
        super().__init__()
        self.dense, self.activation = nn.Linear(config.hidden_size, config.intermediate_size), ACT2FN[config.hidden_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden))


class Output(nn.Module):
    """The end of a residual branch: its last map, dropout, the sum, and the norm before or behind it."""

    def __init__(self, config: Blip2QFormerConfig, layers: Layers, path: float, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, config.hidden_size)
        self.LayerNorm = make_norm(layers.norm, config.hidden_size, config.layer_norm_eps)
        self.dropout, self.path = nn.Dropout(config.hidden_dropout_prob), DropPath(path)
        self.pre = layers.place == "pre"

    def forward(self, hidden: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        read = self.LayerNorm(hidden) if self.pre else hidden
        added = self.path(self.dropout(self.dense(branch(read))))
        return hidden + added if self.pre else self.LayerNorm(added + hidden)
