"""What a recipe says of its model: towers, connector, adapters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sightline.recipe.part import Above0, Fraction, Part, Positive, Rate, Tower


class Source(Part):
    """Where a tower comes from: weights (`source`: hub id or folder) or a small `config` built from scratch."""

    source: str | None = None
    config: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> Source:
        if (self.source is None) == (self.config is None):
            raise ValueError("give exactly one of 'source' (hub id or folder) and 'config' (transformers fields)")
        if self.config is not None and "model_type" not in self.config:
            raise ValueError("'config' needs 'model_type', e.g. siglip_vision_model or llama")
        return self


class VisionSpec(Source):
    """The vision tower. `layer` is the hidden state that feeds the connector.

    -1 is the tower's own output, after its final norm; any other is what a block left (LLaVA: -2).
    """

    layer: int = -2
    image_size: Positive | None = None  # convolutional towers only: the others' configurations say it
    tokens: Literal["patch", "all"] = "patch"  # "patch" drops the class token where the tower has one
    resize: Literal["squash", "crop", "pad"] = "squash"
    mean: tuple[float, float, float] | None = None  # None: the tower's own image processor says
    std: tuple[float, float, float] | None = None


class Layers(Part):
    """How the layers of a q-former, a perceiver or gated-cross-attention are made."""

    place: Literal["pre", "post"] | None = None  # norms stand before each branch or behind its sum; None: its paper's
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    qk_norm: bool = False  # each head's queries and keys to root mean square 1, times a learned gain
    attention_dropout: Rate | None = None  # None: 0, and a q-former's config says (BERT's 0.1)
    path_dropout: Rate = 0.0  # share of rows that skip a branch of the last layer; lower layers in proportion


class Start(Part):
    """How the weights of such layers start; what is not given starts as the released code has it."""

    weights: Literal["xavier"] | None = None  # linear maps, uniform (Glorot & Bengio 2010)
    residual: Literal["zero"] | None = None  # the last map of each branch is 0: at first, branches add nothing
    queries: Above0 | None = None  # standard deviation of the learned queries
    cross: Literal["self"] | None = None  # q-former: cross-attention is a copy of its layer's self-attention


class ConnectorSpec(Part):
    """The connector: `kind` is a file's name in `models/connectors/`."""

    kind: str = "mlp"
    factor: Positive = 2  # pixel-shuffle only: factor x factor neighbouring patches become one token
    hidden: Positive | None = None  # mlp width; None: the language tower's
    queries: Positive | None = (
        None  # q-former and perceiver: tokens that an image becomes; None: the kind's own (32, 64)
    )
    config: dict[str, Any] | None = None  # q-former: fields of transformers' BertConfig; perceiver: depth, heads
    source: str | None = None  # q-former: its start: a BERT (hub id or folder), or the folder `model` of an earlier run
    embed: Positive = 256  # q-former: width of the space in which images and texts are compared
    layers: Layers = Layers()
    start: Start = Start()


class HeadSpec(Part):
    """An answer head: which answer of a vocabulary, by a small network on what the language tower made of the prompt.

    The vocabulary holds the answers that the data of stages with objective answers give often enough.
    """

    answers: Positive | None = None  # at most so many, the most frequent ones; None: all that are frequent enough
    min_count: Positive = 9  # how often an answer must be given to be in the vocabulary
    targets: Literal["leave-one-out", "thirds"] = "leave-one-out"  # 0 .3 .6 .9 1 by people who say so, or min(n/3, 1)
    hidden: Positive | None = None  # units of the hidden layer; None: twice the language tower's width
    dropout: Rate = 0.5


class LanguageSpec(Source):
    """The language tower: any causal language model."""

    gguf_file: str | None = None  # a file inside `source`, read by transformers' GGUF loader


class TokenizerSpec(Part):
    """The tokenizer: from the language tower (default), from `source`, or a word-level one made from the data."""

    source: str | None = None
    build: Literal["words"] | None = None


class Compose(Part):
    """A VLM joined from a vision model, a connector and a causal language model."""

    vision: VisionSpec
    connector: ConnectorSpec = ConnectorSpec()
    language: LanguageSpec
    head: HeadSpec | None = None  # answers by choosing, not by writing
    tokenizer: TokenizerSpec = TokenizerSpec()
    image_token: str = "<image>"
    template: str = "vicuna"  # a name in data/templates.py


class TextSpec(Source):
    """The text tower of a pair model: any text encoder (clip_text_model, siglip_text_model, bert)."""

    pool: Literal["end", "first", "last", "mean"] = "end"  # the token that stands for the text (SigLIP: last)
    max_length: Positive = 77


class Fusion(Part):
    """Cross-attention from text to image in the text tower's last blocks (ALBEF, arXiv 2107.07651, section 3.1)."""

    blocks: Positive = 6  # of the text tower's blocks, the last so many look at the image
    momentum: Fraction | None = None  # decay of the momentum towers that distil; None: there are none
    queue: Positive | None = None  # pairs that the momentum towers embedded last; more negatives for itc

    @model_validator(mode="after")
    def _queue_of_momentum(self) -> Fusion:
        if self.queue is not None and self.momentum is None:
            raise ValueError("'queue' holds what the momentum towers embedded: give 'momentum' too, e.g. 0.995")
        return self


class Caption(Part):
    """A decoder on the text tower that looks at the image and writes the text (CoCa, arXiv 2205.01917, section 3.2)."""

    blocks: Positive = 12
    queries: Positive = 256  # tokens that an image becomes for it, by attention with learned queries


class Pair(Part):
    """Two towers that meet in one space of embeddings (CLIP, SigLIP).

    With `fusion`, texts look at images (ALBEF); with `caption`, they are written, too (CoCa).
    """

    vision: VisionSpec
    language: TextSpec
    tokenizer: TokenizerSpec = TokenizerSpec()
    embed: Positive = 512  # width of the common space
    pool: Literal["class", "mean", "attention"] = "class"  # how an image's tokens become one embedding
    project: Literal["both", "text"] = "both"  # into the common space; "text": images are in it (SigLIP)
    temperature: Annotated[float, Field(gt=0)] = 0.07  # at the start; the scale 1 / temperature is learned
    max_scale: float | None = 100.0  # the learned scale is held at or below this
    bias: float | None = None  # at the start, where there is one (SigLIP: -10)
    fusion: Fusion | None = None
    caption: Caption | None = None

    @model_validator(mode="after")
    def _one_top(self) -> Pair:
        if self.fusion and self.caption:
            raise ValueError("'fusion' and 'caption' both stand on the text tower: give one of them")
        if self.caption and (self.pool, self.project, self.language.pool) != ("attention", "both", "end"):
            raise ValueError("'caption' needs pool: attention, project: both, and language.pool: end")
        return self


class Adopt(Part):
    """An existing VLM. `towers` is needed only for a model type that `models/adopt.py` does not know."""

    source: str | None = None
    config: dict[str, Any] | None = None
    towers: dict[Tower, list[str]] | None = None


class Lora(Part):
    """Low-rank adapters (Hu et al. 2021) by PEFT, on the named towers only."""

    rank: Positive = 16
    alpha: Positive = 32
    dropout: Fraction = 0.05
    towers: tuple[Tower, ...] = ("language",)
    targets: Literal["all-linear"] | list[str] = "all-linear"


class ModelSpec(Part):
    """Exactly one of `compose`, `pair` and `adopt`, and how its weights are held."""

    compose: Compose | None = None
    pair: Pair | None = None
    adopt: Adopt | None = None
    lora: Lora | None = None
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"

    @model_validator(mode="after")
    def _one_way(self) -> ModelSpec:
        if sum(way is not None for way in (self.compose, self.pair, self.adopt)) != 1:
            raise ValueError(
                "give exactly one of 'compose' (join towers), 'pair' (image and text towers side by side) and 'adopt' "
                "(take an existing VLM)"
            )
        return self
