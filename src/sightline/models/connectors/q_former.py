"""Q-Former: learned queries look at an image's features and become its tokens (BLIP-2, arXiv 2301.12597, section 3).

The body is transformers' `Blip2QFormerModel`: a BERT whose queries cross-attend to the image in every second layer and
share its self-attention with a text. (Where the recipe's `connector.layers` asks for what that has not, it is the
house's `FormerBody`.) Before it feeds a language tower it learns to compare, match and write (section 3.2), and for
that it has word embeddings and three heads; what a stage's objective does not reach stays frozen.

Which tokens see which, by objective (figure 2): compared, queries and text do not see each other; matched, all see all;
written, queries see queries, and a word sees all queries and the words before it.

Shapes: N images, B pairs, K judged pairs, P vision tokens, Q queries, T text tokens, H its width, E embedding width,
S supervised positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import Blip2QFormerConfig
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel, Blip2TextEmbeddings

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.layers.former import FormerBody
from sightline.models.layers.start import start_maps
from sightline.models.temperature import Temperature
from sightline.recipe.schema import ConnectorSpec, Layers

QUERIES = 32
VOCABULARY = 30_522 + 1  # BERT's words and [DEC], the token that a written text begins with; it is always the last
QUERY_STD = 0.02  # LAVIS' released code
WHERE = "model.compose.connector"
TEXT_ONLY = (".intermediate.", ".output.dense", ".output.LayerNorm")  # inside a layer, but not inside its attention
QUERY_ONLY = (".crossattention.", ".intermediate_query.", ".output_query.")
BODY = ("body.encoder.", "body.layernorm", "body.final_norm")
LAYERED = True  # `connector.layers` and `connector.start` are read


def tokens(count: int, spec: ConnectorSpec) -> int:
    """The queries, however many vision tokens there are."""
    return spec.queries or QUERIES


def build(width_in: int, width_out: int, spec: ConnectorSpec) -> nn.Module:
    """A Q-Former from (N, P, width_in) to (N, Q, width_out). Raises UserError where its config does not fit."""
    return QFormer(width_in, width_out, spec)


class QFormer(nn.Module):
    """See the module. `forward` is what a language tower is given; the other methods are `models.pairs.PairModel`'s."""

    heads: frozenset[str] = frozenset({"itm", "itg"})

    def __init__(self, width_in: int, width_out: int, spec: ConnectorSpec) -> None:
        super().__init__()
        config = qformer_config(width_in, spec)
        width = config.hidden_size
        self.count = spec.queries or QUERIES
        self.norm = nn.LayerNorm(width_in)  # BLIP-2 puts one on the frozen tower's features
        self.layers, self.start = spec.layers, spec.start
        self.queries = nn.Parameter(torch.empty(1, self.count, width).normal_(std=spec.start.queries or QUERY_STD))
        self.body: Any = FormerBody(config, spec.layers) if own_layers(spec.layers) else Blip2QFormerModel(config)
        self.words = Blip2TextEmbeddings(config)
        nn.init.normal_(self.words.word_embeddings.weight, std=config.initializer_range)
        nn.init.normal_(self.words.position_embeddings.weight, std=config.initializer_range)
        self.image_projection, self.text_projection = nn.Linear(width, spec.embed), nn.Linear(width, spec.embed)
        self.matcher = nn.Linear(width, 2)
        self.writer = Writer(width, config.vocab_size, config.layer_norm_eps)
        self.temperature = Temperature(1 / 0.07)
        self.to_language = nn.Linear(width, width_out)
        ends = (part for name, part in self.body.named_modules() if ".output" in name and name.endswith(".dense"))
        start_maps(self.body, ends, spec.start)
        self.copy_layers()

    @property
    def write_id(self) -> int:
        """The token [DEC], which stands at the start of a text that is to be written."""
        return self.words.word_embeddings.num_embeddings - 1

    @property
    def blocks(self) -> list[nn.Module]:
        """Its layers, first to last."""
        return list(self.body.encoder.layer)

    @property
    def inputs(self) -> list[nn.Module]:
        """What the first layer reads and that is registered behind the layers."""
        return [self.words]

    @torch.no_grad()
    def copy_layers(self) -> None:
        """The queries' feed-forward layers start as the text's (LAVIS' `init_from_text`), as the recipe asks others.

        Raises:
            UserError: a copy of self-attention that cannot look at features of another width.
        """
        for layer in self.body.encoder.layer:
            layer.intermediate_query.load_state_dict(layer.intermediate.state_dict())
            layer.output_query.load_state_dict(layer.output.state_dict())
            if self.start.cross == "self" and layer.has_cross_attention:
                self._copy_attention(layer)

    def _copy_attention(self, layer: Any) -> None:
        own, other = layer.crossattention, layer.attention
        if own.attention.key.weight.shape != other.attention.key.weight.shape:
            wide, seen = other.attention.key.in_features, own.attention.key.in_features
            what = f"self-attention over a width of {wide} cannot be copied to look at features of width {seen}"
            raise UserError(what, where=f"{WHERE}.start.cross", fix="leave it out, or make the widths equal")
        own.attention.load_state_dict(other.attention.state_dict())
        own.output.LayerNorm.load_state_dict(other.output.LayerNorm.state_dict())
        if self.start.residual != "zero":
            own.output.dense.load_state_dict(other.output.dense.state_dict())

    def idle(self, objective: str | Mapping[Any, float]) -> set[str]:
        """Names of the parameters that an objective does not reach."""
        names = {name for name, _ in self.named_parameters()}
        if objective in ("next-token", "answers"):
            inside = {name for name in names if name.startswith(BODY)}
            text = {name for name in inside if ".attention." not in name and "crossattention" not in name}
            text = {name for name in text if any(part in f".{name}" for part in TEXT_ONLY)}
            return names - inside - {"queries", "norm.weight", "norm.bias"} - _under(names, "to_language") | text
        idle = _under(names, "to_language")
        idle |= set() if "itm" in objective else _under(names, "matcher")
        idle |= set() if "itg" in objective else _under(names, "writer")
        if not {"itc", "sigmoid"} & set(objective):
            idle |= _under(names, "image_projection", "text_projection", "temperature")
        if set(objective) == {"itg"}:  # words see what queries were before a layer, so never what the last made of them
            last = f"body.encoder.layer.{len(self.body.encoder.layer) - 1}."
            idle |= {name for name in names if name.startswith(last) and any(part in name for part in QUERY_ONLY)}
        return idle

    def forward(self, features: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q W"]:
        """Tokens for a language tower."""
        return self.to_language(self._look(self.norm(features)))

    # --- image-text pairs ----------------------------------------------------------------------------------------

    def embed_images(self, seen: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q E"]:
        """Unit vectors, one of each query. `seen`: features behind `norm`."""
        return _unit(self.image_projection(self._look(seen)))

    def embed_texts(self, input_ids: Int[Tensor, "B T"], attention_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B E"]:
        """Unit vectors of texts, read at their first token, by the text branch alone."""
        self._check_length(input_ids)
        mask = _additive(attention_mask[:, None, None, :], self.queries.dtype)
        hidden = self.body(self.words(input_ids=input_ids), query_length=0, attention_mask=mask).last_hidden_state
        return _unit(self.text_projection(hidden[:, 0]))

    def match(
        self, seen: Float[Tensor, "K P D"], input_ids: Int[Tensor, "K T"], attention_mask: Bool[Tensor, "K T"]
    ) -> Float[Tensor, "K Q 2"]:
        """Logits of each query; their mean over queries judges the pair."""
        sight = F.pad(attention_mask, (self.count, 0), value=True)[:, None, None, :]
        return self.matcher(self._both(seen, input_ids, sight)[:, : self.count])

    def look_and_write(
        self, seen: Float[Tensor, "B P D"], input_ids: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B Q E"], Float[Tensor, "B T H"]]:
        """`embed_images`, and the words beside them, each of which sees the queries and the words before it."""
        ids = input_ids.clone()
        ids[:, 0] = self.write_id
        length, device = ids.shape[1], ids.device
        sight = torch.ones(self.count + length, self.count + length, dtype=torch.bool, device=device).tril()
        sight[: self.count, : self.count] = True  # queries see all queries, and no words
        hidden = self._both(seen, ids, sight[None, None])
        return _unit(self.image_projection(hidden[:, : self.count])), hidden[:, self.count :].contiguous()

    def caption(
        self, seen: Float[Tensor, "B P D"], batch: Batch, kept: Float[Tensor, "B T H"] | None = None
    ) -> tuple[Float[Tensor, "S V"], Int[Tensor, " S"]]:
        """Logits where `batch` has labels, each from the image and the words before. `kept`: of `look_and_write`."""
        written = self.look_and_write(seen, batch.input_ids)[1] if kept is None else kept
        rows, targets = batch.supervised()
        return self.writer(written.flatten(0, 1)[rows], self.words.word_embeddings.weight), targets

    # --- inside --------------------------------------------------------------------------------------------------

    def _look(self, seen: Float[Tensor, "N P D"]) -> Float[Tensor, "N Q H"]:
        queries = self.queries.expand(len(seen), -1, -1)
        return self.body(queries, encoder_hidden_states=seen).last_hidden_state

    def _both(self, seen: Tensor, input_ids: Tensor, sight: Bool[Tensor, "K 1 _ T"]) -> Float[Tensor, "K L H"]:
        """Queries and text together, under a mask of who may see what."""
        self._check_length(input_ids)
        embeds = self.words(input_ids=input_ids, query_embeds=self.queries.expand(len(seen), -1, -1))
        mask = _additive(sight, embeds.dtype)
        return self.body(
            embeds, query_length=self.count, attention_mask=mask, encoder_hidden_states=seen
        ).last_hidden_state

    def _check_length(self, input_ids: Tensor) -> None:
        limit = self.words.position_embeddings.num_embeddings
        if input_ids.shape[1] > limit:
            what = f"a text of {input_ids.shape[1]} tokens is more than the Q-Former's {limit}"
            raise UserError(what, where=WHERE, fix="shorten the texts, or raise config.max_position_embeddings")


class Writer(nn.Module):
    """BERT's prediction head; its output matrix is the word embeddings, given at each call."""

    def __init__(self, width: int, vocabulary: int, eps: float) -> None:
        super().__init__()
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=eps)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def forward(self, hidden: Float[Tensor, "S H"], words: Float[Tensor, "V H"]) -> Float[Tensor, "S V"]:
        """Logits over the vocabulary."""
        return F.linear(self.norm(F.gelu(self.dense(hidden))), words, self.bias)


def own_layers(layers: Layers) -> bool:
    """Whether they are others than transformers has: its norms are LayerNorms behind each sum."""
    return layers.place == "pre" or layers.norm != "layernorm" or layers.qk_norm or layers.path_dropout > 0


def qformer_config(width_in: int, spec: ConnectorSpec) -> Blip2QFormerConfig:
    """The body's configuration: BERT-base, but for what the recipe says."""
    fields: dict[str, Any] = {"vocab_size": VOCABULARY} | (spec.config or {})
    if spec.layers.attention_dropout is not None:
        fields["attention_probs_dropout_prob"] = spec.layers.attention_dropout
    try:
        config = Blip2QFormerConfig(**fields, encoder_hidden_size=width_in, use_qformer_text_input=True)
    except (TypeError, ValueError) as error:
        raise UserError(f"no Q-Former can be built from this config: {error}", where=f"{WHERE}.config") from error
    if config.hidden_size % config.num_attention_heads:
        what = f"{config.num_attention_heads} heads do not divide a width of {config.hidden_size}"
        raise UserError(what, where=f"{WHERE}.config", fix="change num_attention_heads or hidden_size")
    return config


def _additive(sight: Bool[Tensor, "B 1 _ T"], dtype: torch.dtype) -> Float[Tensor, "B 1 _ T"]:
    """0 where a token may look, and the least number where it may not."""
    return torch.zeros(sight.shape, dtype=dtype, device=sight.device).masked_fill_(~sight, torch.finfo(dtype).min)


def _under(names: set[str], *modules: str) -> set[str]:
    return {name for name in names if name.split(".")[0] in modules}


def _unit(embeddings: Tensor) -> Tensor:
    """Scaled to length 1, in at least fp32."""
    return F.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)
