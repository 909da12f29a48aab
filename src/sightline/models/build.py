"""From a recipe's `model` to a model and its encoder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PretrainedConfig

from sightline.data.encode import Encoder
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.pixels import ImageProcessorFacts
from sightline.models import known_configs
from sightline.models.composed import ComposedVLM
from sightline.models.connectors import build_connector, token_count
from sightline.models.tokenizer import fit_embeddings, load_tokenizer
from sightline.models.towers import language_config, load_language, load_vision, vision_config
from sightline.models.vision import VisionTower, default_pixels
from sightline.models.vlm import VLM
from sightline.recipe.schema import Compose, ModelSpec, VisionSpec


@dataclass(frozen=True, slots=True)
class Built:
    """A model and the encoder that speaks its tokens."""

    model: VLM
    encoder: Encoder


def build(
    spec: ModelSpec, *, seed: int, texts: Iterable[str] = (), dtype: torch.dtype = torch.float32, tokenizer: Any = None
) -> Built:
    """The model that `spec` describes, on the CPU, and its encoder.

    Args:
        seed: of every weight that no source gives.
        texts: what a word-level tokenizer is made from; read only where the recipe asks for one.
        tokenizer: one already made (of a saved run), instead of the recipe's.

    Raises:
        UserError: a source cannot be read, a configuration is wrong, or the parts do not fit together.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _compose(spec, spec.compose, texts, dtype, tokenizer)


def build_meta(spec: ModelSpec) -> VLM:
    """The same model without weights or tokenizer, on the meta device: names, shapes and counts, read offline.

    Its vocabulary is that of the configuration: a tokenizer made from data is not known yet.
    """
    with torch.device("meta"):
        compose = known_configs.offline(spec).compose
        vision, language = vision_config(compose.vision), language_config(compose.language)
        return _join(spec, compose, vision, language, torch.float32, tokenizer=None)


def _compose(spec: ModelSpec, compose: Compose, texts: Iterable[str], dtype: torch.dtype, tokenizer: Any) -> Built:
    vision, language = vision_config(compose.vision), language_config(compose.language)
    tokenizer = tokenizer or load_tokenizer(compose, texts)
    if compose.language.config is not None:
        language.vocab_size = len(tokenizer)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
            setattr(language, name, getattr(tokenizer, name))
    model = _join(spec, compose, vision, language, dtype, tokenizer)
    encoder = ComposedEncoder(
        tokenizer,
        image_facts(compose.vision, model.vision),
        token_count(model.vision.count, compose.connector),
        model.image_token_id,
        compose.template,
    )
    model.eos_ids = _ends(model, encoder)
    model.encoder = encoder
    return Built(model, encoder)


def _join(
    spec: ModelSpec,
    compose: Compose,
    vision: PretrainedConfig,
    language: PretrainedConfig,
    dtype: torch.dtype,
    tokenizer: Any,
) -> ComposedVLM:
    tower = load_vision(compose.vision, vision, attention=spec.attention, dtype=dtype)
    token_count(tower.count, compose.connector)  # a grid that does not fit is told before the language tower is read
    speaker = load_language(compose.language, language, attention=spec.attention, dtype=dtype)
    image_token_id = -1
    if tokenizer is not None:
        fit_embeddings(speaker, tokenizer)
        image_token_id = int(tokenizer.convert_tokens_to_ids(compose.image_token))
    width = speaker.get_input_embeddings().weight.shape[1]
    connector = build_connector(tower.width, width, compose.connector).to(dtype)
    return ComposedVLM(tower, connector, speaker, spec=compose, image_token_id=image_token_id, eos_ids=())


def image_facts(spec: VisionSpec, tower: VisionTower) -> ImageProcessorFacts:
    """How images are prepared: the recipe's word, else the source's preprocessor, else the family's custom."""
    told = _preprocessor(spec.source) if spec.source else {}
    mean, std = default_pixels(tower.config)
    mean = spec.mean or tuple(told.get("image_mean") or mean)
    std = spec.std or tuple(told.get("image_std") or std)
    resample = "bilinear" if told.get("resample") == 2 else "bicubic"  # PIL's numbers
    return ImageProcessorFacts(tower.image_size, mean, std, spec.resize, resample)


def _preprocessor(source: str) -> dict[str, Any]:
    """The source's `preprocessor_config.json`; empty where it has none."""
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        return ImageProcessingMixin.get_image_processor_dict(source)[0]
    except (OSError, ValueError):
        return {}


def _ends(model: ComposedVLM, encoder: ComposedEncoder) -> tuple[int, ...]:
    """Every token that ends an answer: the template's, and those that the language model was trained to end with."""
    generation = getattr(model.language, "generation_config", None)
    told = getattr(generation, "eos_token_id", None)
    told = [told] if isinstance(told, int) else list(told or ())
    return tuple(sorted({encoder.eos_id, *told}))
