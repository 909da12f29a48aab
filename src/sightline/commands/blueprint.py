"""A recipe's model without its weights: shapes on the meta device, and the encoder. A check must not load 14 GB."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sightline.data.dataset import Rows
from sightline.data.encode import Encoder
from sightline.data.encode_adopted import AdoptedEncoder
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.processor import load_processor
from sightline.errors import UserError
from sightline.models.answer_head import count_answers
from sightline.models.build import build_meta, image_facts
from sightline.models.composed import ComposedVLM
from sightline.models.connectors import token_count
from sightline.models.origin import read_or_explain
from sightline.models.tokenizer import load_tokenizer
from sightline.models.vlm import VLM
from sightline.recipe.schema import ModelSpec, Recipe


def read_tokens(spec: ModelSpec, texts: Iterable[str]) -> Any:
    """The tokenizer of a composed model, made or read as `build` would; the processor of an adopted one.

    Raises:
        UserError: it cannot be had.
    """
    if spec.compose is not None:
        return load_tokenizer(spec.compose, texts)
    source, where = spec.adopt.source if spec.adopt else None, "model.adopt.source"
    if source is None:
        return None
    try:
        return read_or_explain(lambda: load_processor(source), source, where)
    except ImportError as error:
        raise UserError(f"its processor needs a library that is not installed: {error}", where=where) from error


def with_answers(recipe: Recipe, rows: Mapping[str, Rows]) -> tuple[ModelSpec, tuple[str, ...]]:
    """The recipe's model with as many answers as its head will choose from, and these, counted as `build` would.

    Of a stream only a few rows are at hand, in which nothing is counted.

    Raises:
        UserError: there are not two of them.
    """
    spec, compose = recipe.model, recipe.model.compose
    if compose is None or compose.head is None:
        return spec, ()
    chosen = dict.fromkeys(name for stage in recipe.stages if stage.objective == "answers" for name in stage.data)
    if any(recipe.data[name].stream for name in chosen):
        return spec, ()
    answers = count_answers(compose.head, (row for name in chosen for row in rows[name]))
    head = compose.head.model_copy(update={"answers": len(answers)})
    return spec.model_copy(update={"compose": compose.model_copy(update={"head": head})}), answers


def draw(spec: ModelSpec, tokens: Any) -> VLM:
    """The model on the meta device, with as many embeddings as `tokens` (None: as the configuration says)."""
    compose = spec.compose
    if compose is not None and compose.language.config is not None and tokens is not None:
        sized = {"config": compose.language.config | {"vocab_size": len(tokens)}}
        language = compose.language.model_copy(update=sized)
        spec = spec.model_copy(update={"compose": compose.model_copy(update={"language": language})})
    return build_meta(spec)


def encoder_of(spec: ModelSpec, model: VLM, tokens: Any) -> Encoder:
    """The encoder that `build` would give."""
    if spec.compose is None:
        return AdoptedEncoder(tokens)
    assert isinstance(model, ComposedVLM)
    facts = image_facts(spec.compose.vision, model.vision)
    count = token_count(model.vision.count, spec.compose.connector)
    image_token = int(tokens.convert_tokens_to_ids(spec.compose.image_token))
    return ComposedEncoder(tokens, facts, count, image_token, spec.compose.template)
