"""A tiny Q-Former, and the same written down plainly: one token at a time, over the list of those it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.models.connectors.q_former import QFormer
from sightline.recipe.schema import ConnectorSpec

QUERIES, WORDS, LONGEST, WIDTH, WIDTH_IN, EMBED, WIDTH_OUT = 3, 20, 8, 16, 12, 6, 10
CONFIG: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": WIDTH,
    "num_hidden_layers": 3,  # the first and the last look at the image
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": LONGEST,
    "initializer_range": 0.3,  # at 0.02 in so small a model every difference would be lost in rounding
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def spec(**changes: Any) -> ConnectorSpec:
    return ConnectorSpec(kind="q-former", queries=QUERIES, embed=EMBED, config=CONFIG | changes)


def former(dtype: torch.dtype = torch.float64, seed: int = 0, **changes: Any) -> QFormer:
    """In evaluation mode, every parameter random, so that no two parts could stand in for each other."""
    torch.manual_seed(seed)
    made = QFormer(WIDTH_IN, WIDTH_OUT, spec(**changes)).to(dtype)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not name.startswith("temperature"):
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made.eval()


def pairs(dtype: torch.dtype = torch.float64, count: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Features (N, P, D) of images, texts (B, T) padded with 0, and their mask; lengths 2, 3, 4, ..."""
    made = torch.Generator().manual_seed(1)
    features = torch.randn(count, 5, WIDTH_IN, dtype=dtype, generator=made)
    ids = torch.randint(1, WORDS - 1, (count, count + 1), generator=made)
    mask = torch.arange(count + 1) < torch.arange(2, count + 2)[:, None]
    return features, ids * mask, mask


Sees = Callable[[int, int], bool]  # (place, other place) -> may it look there? Queries come first.


def by_hand(made: QFormer, seen: Tensor | None, ids: Tensor | None, sees: Sees) -> Tensor:
    """(L, H) hidden states of one image's queries (where `seen` is given) and one text's words (where `ids` is)."""
    parts = [made.queries[0]] if seen is not None else []
    if ids is not None:
        parts.append(made.words.word_embeddings.weight[ids] + made.words.position_embeddings.weight[: len(ids)])
    queries = made.count if seen is not None else 0
    hidden = list(made.body.layernorm(torch.cat(parts)))
    for layer in made.body.encoder.layer:
        now = []
        for place, token in enumerate(hidden):
            around = torch.stack([other for at, other in enumerate(hidden) if sees(place, at)])
            value = _attended(layer.attention, token, around)
            is_query = place < queries
            if is_query and layer.has_cross_attention:
                value = _attended(layer.crossattention, value, seen)
            into, out = (
                (layer.intermediate_query, layer.output_query) if is_query else (layer.intermediate, layer.output)
            )
            now.append(out.LayerNorm(out.dense(F.gelu(into.dense(value))) + value))
        hidden = now
    return torch.stack(hidden)


def _attended(block: Any, token: Tensor, around: Any) -> Tensor:
    """One token over what it sees, head by head, then the residual and its norm."""
    attention, heads = block.attention, block.attention.num_attention_heads
    query, key, value = attention.query(token), attention.key(around), attention.value(around)
    size = len(query) // heads
    read = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = (key[:, part] @ query[part] / size**0.5).softmax(0)
        read.append(weights @ value[:, part])
    return block.output.LayerNorm(block.output.dense(torch.cat(read)) + token)
