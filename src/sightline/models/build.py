"""From a recipe's `model` to a model and its encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForImageTextToText, PretrainedConfig

from sightline.data.encode import Encoder
from sightline.data.encode_adopted import AdoptedEncoder
from sightline.data.encode_answers import AnswerEncoder
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.encode_pairs import PairEncoder
from sightline.data.encode_seq2seq import Seq2SeqEncoder
from sightline.data.pixels import ImageProcessorFacts
from sightline.data.processor import load_processor
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models import known_configs
from sightline.models.adapters import add_adapters
from sightline.models.adopted import AdoptedVLM
from sightline.models.answer_head import answer_head, count_answers
from sightline.models.bert_source import start_from_bert
from sightline.models.captioner import CaptionPairVLM
from sightline.models.composed import ComposedVLM
from sightline.models.connectors import build_connector, token_count
from sightline.models.connectors.gated_cross_attention import GatedCrossAttention
from sightline.models.connectors.q_former import QFormer
from sightline.models.former_source import is_former, start_from_former
from sightline.models.fused import FusedPairVLM
from sightline.models.gated import GatedVLM
from sightline.models.origin import make_config, read_config, read_or_explain
from sightline.models.pair import PairVLM
from sightline.models.pair_source import start_from_pair
from sightline.models.seq2seq import Seq2SeqVLM
from sightline.models.tokenizer import fit_embeddings, load_query_tokenizer, load_text_tokenizer, load_tokenizer
from sightline.models.towers import (
    attention_for,
    language_config,
    load_language,
    load_text,
    load_vision,
    text_config,
    vision_config,
)
from sightline.models.vision import VisionTower, default_pixels
from sightline.models.vlm import VLM
from sightline.recipe.schema import Adopt, Compose, ModelSpec, Pair, Stage, VisionSpec

Q_FORMER = ("q-former", "q_former")


@dataclass(frozen=True, slots=True)
class Built:
    """A model and the encoder that speaks its tokens.

    `pairs`: the encoder for objectives over image-text pairs, where the model has them; it may speak other tokens.
    `answers`: the encoder for the model's answer head, where it has one.
    """

    model: VLM
    encoder: Encoder
    pairs: PairEncoder | None = None
    answers: AnswerEncoder | None = None

    def encoder_for(self, stage: Stage) -> Encoder:
        """The encoder of what `stage` learns from. Raises UserError for pairs and a model that knows none."""
        if stage.objective == "next-token":
            return self.encoder
        if stage.objective == "answers":
            assert self.answers is not None, "a recipe's objective answers needs a head"
            return self.answers
        if self.pairs is None:
            raise UserError(
                "this model compares no image with a text",
                where=f"stages.{stage.name}.objective",
                fix="set model.pair, or model.compose.connector.kind to q-former, or the objective to next-token",
            )
        return self.pairs

    def save_parts(self, folder: Path) -> None:
        """Write what `saved.load_run` needs of this model beside its weights."""
        self.model.describe(folder)


def build(
    spec: ModelSpec,
    *,
    seed: int,
    texts: Iterable[str] = (),
    answered: Iterable[Row] = (),
    dtype: torch.dtype = torch.float32,
) -> Built:
    """The model that `spec` describes, on the CPU, and its encoder.

    Args:
        seed: of every weight that no source gives.
        texts: what a word-level tokenizer is made from; read only where the recipe asks for one.
        answered: rows in whose answers a head's vocabulary is counted; read only where the recipe asks for one.

    Raises:
        UserError: a source cannot be read, a configuration is wrong, or the parts do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.compose is not None:
            answers = count_answers(spec.compose.head, answered) if spec.compose.head else ()
            built = _compose(spec.compose, spec.attention, texts, dtype, answers)
        elif spec.pair is not None:
            built = _pair(spec.pair, spec.attention, texts, dtype)
        else:
            assert spec.adopt is not None
            built = _adopt(spec.adopt, spec.attention, dtype)
        if spec.lora is not None:
            add_adapters(built.model, spec.lora)
    return built


def build_meta(spec: ModelSpec) -> VLM:
    """The same model without weights or tokenizer, on the meta device: names, shapes and counts, read offline.

    Its vocabulary is that of the configuration: a tokenizer made from data is not known yet, and an answer head has as
    many answers as the recipe allows (one, where it does not say).
    """
    spec = known_configs.offline(spec)
    model: VLM
    with torch.device("meta"):
        if spec.compose is not None:
            towers = vision_config(spec.compose.vision), language_config(spec.compose.language)
            model = join(spec.compose, *towers, attention=spec.attention, dtype=torch.float32)
        elif spec.pair is not None:
            towers = vision_config(spec.pair.vision), text_config(spec.pair.language)
            model = side_by_side(spec.pair, *towers, attention=spec.attention, dtype=torch.float32)
        else:
            assert spec.adopt is not None
            config = _adopt_config(spec.adopt)
            attention = attention_for(config, spec.attention)
            fresh = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
            model = AdoptedVLM(fresh, spec.adopt)
        if spec.lora is not None:
            add_adapters(model, spec.lora)
    return model


def finish(model: ComposedVLM | AdoptedVLM, encoder: Encoder, eos_ids: tuple[int, ...]) -> Built:
    """Let the model know the tokens that end an answer, and what to write beside its weights."""
    model.eos_ids, model.encoder = tuple(sorted({encoder.eos_id, *eos_ids})), encoder
    return Built(model, encoder)


def _compose(
    spec: Compose, attention: str, texts: Iterable[str], dtype: torch.dtype, answers: tuple[str, ...]
) -> Built:
    vision, language = vision_config(spec.vision), language_config(spec.language)
    texts = list(texts) if spec.tokenizer.build else []
    tokenizer = load_tokenizer(spec, texts)
    query_tokenizer = None
    if spec.connector.kind in Q_FORMER:
        query_tokenizer = load_query_tokenizer(spec, texts)
        sized = (spec.connector.config or {}) | {"vocab_size": len(query_tokenizer)}
        spec = spec.model_copy(update={"connector": spec.connector.model_copy(update={"config": sized})})
    if spec.language.config is not None:
        language.vocab_size = len(tokenizer)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(language, name, getattr(tokenizer, name))
        if language.is_encoder_decoder:
            language.decoder_start_token_id = tokenizer.pad_token_id  # as T5's decoder begins
    parts: dict[str, Any] = {"tokenizer": tokenizer, "answers": len(answers)}
    model = join(spec, vision, language, attention=attention, dtype=dtype, **parts)
    tokens = token_count(model.vision.count, spec.connector)
    facts = image_facts(spec.vision, model.vision)
    kind = encoder_kind(language)
    encoder = kind(tokenizer, facts, tokens, model.image_token_id, spec.template)
    built = with_answers(finish(model, encoder, _trained_ends(model.language)), answers)
    if query_tokenizer is None:
        return built
    assert isinstance(model.connector, QFormer)
    if spec.connector.source is not None:
        start = start_from_former if is_former(spec.connector.source) else start_from_bert
        start(model.connector, spec.connector.source)
    longest = model.connector.words.position_embeddings.num_embeddings
    return with_pairs(built, PairEncoder(query_tokenizer, facts, longest))


def with_pairs(built: Built, encoder: PairEncoder) -> Built:
    """A composed model whose connector also learns from pairs."""
    assert isinstance(built.model, ComposedVLM)
    built.model.pair_encoder = encoder
    return replace(built, pairs=encoder)


def with_answers(built: Built, answers: tuple[str, ...]) -> Built:
    """A composed model that knows what its head's outputs mean, where it has one."""
    model = built.model
    assert isinstance(model, ComposedVLM) and isinstance(built.encoder, ComposedEncoder)
    if model.spec.head is None:
        return built
    model.answer_encoder = AnswerEncoder(built.encoder, answers, model.spec.head.targets)
    return replace(built, answers=model.answer_encoder)


def join(
    spec: Compose,
    vision: PretrainedConfig,
    language: PretrainedConfig,
    *,
    attention: str,
    dtype: torch.dtype,
    tokenizer: Any = None,
    answers: int | None = None,
) -> ComposedVLM:
    """The towers of `spec`, a connector between them, and the head. Raises UserError where they do not fit together.

    `answers`: of the head's vocabulary; None: as many as the recipe allows.
    """
    tower = load_vision(spec.vision, vision, attention=attention, dtype=dtype)
    token_count(tower.count, spec.connector)  # a grid that does not fit is told before the language tower is read
    speaker = load_language(spec.language, language, attention=attention, dtype=dtype)
    image_token_id = -1
    if tokenizer is not None:
        fit_embeddings(speaker, tokenizer)
        image_token_id = int(tokenizer.convert_tokens_to_ids(spec.image_token))
    width = speaker.get_input_embeddings().weight.shape[1]
    connector = build_connector(tower.width, width, spec.connector).to(dtype)
    make: type[ComposedVLM] = Seq2SeqVLM if language.is_encoder_decoder else ComposedVLM
    if isinstance(connector, GatedCrossAttention):
        if language.is_encoder_decoder:
            what = (
                f"gated cross-attention goes into a decoder's blocks, and a {language.model_type} has an encoder, too"
            )
            raise UserError(what, where="model.compose.connector.kind", fix="choose another connector")
        make = GatedVLM
    head = None
    if spec.head is not None:
        head = answer_head(width, answers if answers is not None else spec.head.answers or 1, spec.head).to(dtype)
    return make(tower, connector, speaker, spec=spec, image_token_id=image_token_id, eos_ids=(), head=head)


def encoder_kind(language: PretrainedConfig) -> type[ComposedEncoder]:
    """The encoder of a composed model with this language tower."""
    return Seq2SeqEncoder if language.is_encoder_decoder else ComposedEncoder


def _pair(spec: Pair, attention: str, texts: Iterable[str], dtype: torch.dtype) -> Built:
    vision, language = vision_config(spec.vision), text_config(spec.language)
    tokenizer = load_text_tokenizer(spec, texts)
    if spec.language.config is not None:
        language.vocab_size = len(tokenizer)
    model = side_by_side(spec, vision, language, attention=attention, dtype=dtype)
    facts = image_facts(spec.vision, model.vision)
    longest = min(spec.language.max_length, getattr(language, "max_position_embeddings", spec.language.max_length))
    start_from_pair(model)
    return finish_pair(model, PairEncoder(tokenizer, facts, longest, fill=spec.language.pool == "last"))


def side_by_side(
    spec: Pair, vision: PretrainedConfig, language: PretrainedConfig, *, attention: str, dtype: torch.dtype
) -> PairVLM:
    """The towers of `spec` and what joins them. Raises UserError where they cannot be built."""
    tokens: Literal["patch", "all"] = "all" if spec.pool == "class" else spec.vision.tokens
    tower = load_vision(spec.vision.model_copy(update={"tokens": tokens}), vision, attention=attention, dtype=dtype)
    if spec.pool == "class" and not tower.kind.class_token:
        raise UserError(
            f"a {vision.model_type} has no class token to stand for the image",
            where="model.pair.pool",
            fix="set it to mean or attention",
        )
    text = load_text(spec.language, language, attention=attention, dtype=dtype)
    make = FusedPairVLM if spec.fusion else CaptionPairVLM if spec.caption else PairVLM
    return make(tower, text, spec=spec).to(dtype)


def finish_pair(model: PairVLM, encoder: PairEncoder) -> Built:
    """Let the model know what to write beside its weights."""
    model.encoder = encoder
    return Built(model, encoder, pairs=encoder)


def _trained_ends(model: Any) -> tuple[int, ...]:
    """The tokens with which a language model was trained to end."""
    told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return (told,) if isinstance(told, int) else tuple(told or ())


def _adopt_config(spec: Adopt) -> PretrainedConfig:
    if spec.source is not None:
        return read_config(spec.source, "model.adopt.source")
    return make_config(spec.config or {}, "model.adopt.config")


def _adopt(spec: Adopt, attention: str, dtype: torch.dtype) -> Built:
    source, where = spec.source, "model.adopt.source"
    if source is None:
        raise UserError(
            "a model from a config brings no processor, so no row can be encoded for it",
            where="model.adopt.config",
            fix=f"save model and processor into a folder and give it as {where}",
        )
    config = _adopt_config(spec)
    try:
        processor = read_or_explain(lambda: load_processor(source), source, where)
    except ImportError as error:
        raise UserError(f"its processor needs a library that is not installed: {error}", where=where) from error
    options: dict[str, Any] = {"attn_implementation": attention_for(config, attention), "dtype": dtype}
    model = read_or_explain(lambda: AutoModelForImageTextToText.from_pretrained(source, **options), source, where)
    return finish(AdoptedVLM(model, spec), AdoptedEncoder(processor), _trained_ends(model))


def image_facts(spec: VisionSpec, tower: VisionTower) -> ImageProcessorFacts:
    """How images are prepared: the recipe's word, else the source's preprocessor, else the family's custom."""
    told = _preprocessor(spec.source) if spec.source else {}
    mean, std = default_pixels(tower.config)
    mean = spec.mean or tuple(told.get("image_mean") or mean)
    std = spec.std or tuple(told.get("image_std") or std)
    resample: Literal["bilinear", "bicubic"] = "bilinear" if told.get("resample") == 2 else "bicubic"  # PIL's numbers
    return ImageProcessorFacts(tower.image_size, mean, std, spec.resize, resample)


def _preprocessor(source: str) -> dict[str, Any]:
    """The source's `preprocessor_config.json`; empty where it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        return ImageProcessingMixin.get_image_processor_dict(source)[0]
    except (OSError, ValueError):
        return {}
