"""Two towers that meet in one space, and a decoder on the text tower that writes what the image shows (CoCa).

Yu et al. 2022 (arXiv 2205.01917), section 3.2: the text tower is causal and sees no image; the decoder's layers above
it look at the image, so that one forward pass serves the comparison and the caption. Attention with learned queries
makes the tokens that the decoder looks at, and one more query makes the image's embedding of them (the paper's
cascade). The token that ends a text, which has seen all of it, stands for it, as the paper's [CLS] does.

The text tower is `language`; pooling, decoder and all that leads into the common space are `connector`.

Shapes: N images, B pairs, P vision tokens, Q queries, T text tokens, D vision width, W text width, E embedding width,
S supervised positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.pair import PairVLM, unit
from sightline.models.pair_head import PairHead
from sightline.models.pairs import Pairs
from sightline.models.recompute import recompute
from sightline.models.vision import VisionTower
from sightline.recipe.schema import Pair, Tower

CAUSAL = "clip_text_model"
COMPARING = ("image_projection", "text_projection", "temperature", "summary")  # what only a comparison reaches
WRITING = ("decoder", "decoded", "to_words")  # what only a caption reaches


class QueryPool(nn.Module):
    """Learned queries, through one layer of attention to `tokens` (which come normed): (N, P, D) -> (N, Q, W)."""

    def __init__(self, queries: int, width: int, width_seen: int, heads: int, eps: float) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.empty(1, queries, width).normal_(std=width**-0.5))
        self.norm = nn.LayerNorm(width, eps=eps)
        self.attend = nn.MultiheadAttention(width, heads, kdim=width_seen, vdim=width_seen, batch_first=True)

    def forward(self, tokens: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q W"]:
        queries = self.norm(self.queries).expand(len(tokens), -1, -1)
        return self.attend(queries, tokens, tokens, need_weights=False)[0]


class CaptionHead(PairHead):
    """The connector: besides `PairHead`, the two poolings and the decoder."""

    def __init__(self, vision: VisionTower, text: PreTrainedModel, spec: Pair) -> None:
        config, caption = text.config, spec.caption
        assert caption is not None
        width, heads, eps = int(config.hidden_size), int(config.num_attention_heads), float(config.layer_norm_eps)
        super().__init__(vision, width, spec.model_copy(update={"pool": "mean"}))
        self.looked = QueryPool(caption.queries, width, vision.width, heads, eps)
        self.looked_norm = nn.LayerNorm(width, eps=eps)
        self.summary = QueryPool(1, width, width, heads, eps)
        self.image_projection = nn.Linear(width, spec.embed, bias=False)
        nn.init.normal_(self.image_projection.weight, std=width**-0.5)
        layer = nn.TransformerDecoderLayer(
            width, heads, int(config.intermediate_size), 0.0, "gelu", eps, batch_first=True, norm_first=True
        )
        self.decoder = nn.TransformerDecoder(layer, caption.blocks)
        for parameter in self.decoder.parameters():  # the layers come as copies of one
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
        self.decoded = nn.LayerNorm(width, eps=eps)
        self.to_words = nn.Linear(width, int(config.vocab_size), bias=False)
        nn.init.normal_(self.to_words.weight, std=width**-0.5)

    def look(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q W"]:
        """The tokens that a caption is written from."""
        return self.looked_norm(self.looked(self.norm(features)))

    def sum_up(self, tokens: Float[Tensor, "N Q W"]) -> Float[Tensor, "N E"]:
        """The image's embedding, of any length, from those tokens."""
        assert self.image_projection is not None
        return self.image_projection(self.summary(tokens)[:, 0])

    def image(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N E"]:
        """See `PairHead`."""
        return self.sum_up(self.look(features))

    def write(self, read: Float[Tensor, "B T W"], tokens: Float[Tensor, "B Q W"]) -> Float[Tensor, "B T W"]:
        """What each word and the words before it have come to mean beside the image."""
        sight = nn.Transformer.generate_square_subsequent_mask(read.shape[1], read.device, read.dtype)
        return self.decoded(self.decoder(read, tokens.to(read.dtype), tgt_mask=sight, tgt_is_causal=True))


class CaptionPairVLM(PairVLM):
    """See the module."""

    heads = frozenset({"itg"})

    def make_head(self, language: PreTrainedModel) -> PairHead:
        if language.config.model_type != CAUSAL:
            what = f"a caption is written word by word, and a {language.config.model_type} sees all words at once"
            fix = f"give it a {CAUSAL}, or leave model.pair.caption out"
            raise UserError(what, where="model.pair.language", fix=fix)
        return CaptionHead(self.vision, language, self.spec)

    def idle(self, tower: Tower, objective: str | Mapping[Any, float]) -> set[str]:
        idle = super().idle(tower, objective)
        if tower != "connector":
            return idle
        unread = set() if "itg" in objective else set(WRITING)
        unread |= set() if {"itc", "sigmoid"} & set(objective) else set(COMPARING)
        return idle | {name for name, _ in self.tower_parameters(tower) if name.split(".")[1] in unread}

    def set_gradient_checkpointing(self, on: bool) -> None:
        super().set_gradient_checkpointing(on)
        recompute(list(cast(CaptionHead, self.connector).decoder.layers), on)

    def represent(self, batch: Batch, heads: Collection[str] = ()) -> Pairs:
        """See `PairModel`. The text is read once, for its embedding and for the decoder."""
        head, features = cast(CaptionHead, self.connector), self.features_of(batch)
        if not torch.is_autocast_enabled(features.device.type):
            features = features.to(head.dtype)
        tokens, index = head.look(features), batch.image_index
        read = self.read(batch.input_ids, batch.attention_mask)
        image, text = unit(head.sum_up(tokens)), unit(head.text(read, batch.attention_mask))
        return Pairs(image.index_select(0, index), text, tokens.index_select(0, index), read)

    def caption(
        self, seen: Float[Tensor, "B Q W"], batch: Batch, kept: Tensor | None = None
    ) -> tuple[Float[Tensor, "S V"], Int[Tensor, " S"]]:
        """See `PairModel`."""
        head = cast(CaptionHead, self.connector)
        read = self.read(batch.input_ids, batch.attention_mask) if kept is None else kept
        rows, targets = batch.supervised()
        return head.to_words(head.write(read, seen).flatten(0, 1)[rows]), targets
