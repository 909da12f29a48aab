"""Loading a vision and a language tower: weights from a source, or fresh ones from a configuration."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    MODEL_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    PretrainedConfig,
    PreTrainedModel,
    SiglipTextModel,
)

from sightline.errors import UserError
from sightline.models.gguf_file import readable
from sightline.models.origin import make_config, read_config, read_or_explain
from sightline.models.vision import VisionTower, family
from sightline.models.vision_conv import CONVOLUTIONAL, ConvTower, with_image_size
from sightline.recipe.schema import LanguageSpec, TextSpec, VisionSpec

VISION, LANGUAGE, TEXT = "model.compose.vision", "model.compose.language", "model.pair.language"
# What a cut vision tower, or a vision tower taken out of a dual encoder, leaves in the checkpoint or does not use.
UNUSED_IN_VISION = ("head.", "pooler.", "post_layernorm", "layernorm.")
TEXT_MODELS = {"siglip_text_model": SiglipTextModel}  # transformers' own map lacks it


def vision_config(spec: VisionSpec) -> PretrainedConfig:
    """The configuration of the vision model alone, also where `spec` names a dual encoder such as CLIP."""
    if spec.source is not None:
        config = read_config(spec.source, f"{VISION}.source")
    else:
        config = make_config(spec.config or {}, f"{VISION}.config")
    config = getattr(config, "vision_config", config)
    family(config)
    return with_image_size(config, spec.image_size) if config.model_type in CONVOLUTIONAL else config


def load_vision(spec: VisionSpec, config: PretrainedConfig, *, attention: str, dtype: torch.dtype) -> VisionTower:
    """The vision tower. Raises UserError where the source lacks some of its weights."""
    kind: Any = MODEL_MAPPING[type(config)]
    convolutional = config.model_type in CONVOLUTIONAL
    attention = "eager" if convolutional else attention  # it has none, and transformers takes no other word for that
    if spec.source is None:
        model = _fresh(lambda: kind._from_config(config, attn_implementation=attention), VISION).to(dtype)
    else:
        options: dict[str, Any] = {"config": config, "attn_implementation": attention, "dtype": dtype}
        model, told = read_or_explain(
            lambda: kind.from_pretrained(spec.source, output_loading_info=True, **options), spec.source, VISION
        )
        lost = [name for name in told["missing_keys"] if not any(part in name for part in UNUSED_IN_VISION)]
        if lost:
            raise UserError(
                f"'{spec.source}' holds no weights for {len(lost)} parameters of the vision tower, e.g. {lost[0]}",
                where=f"{VISION}.source",
                fix="give a checkpoint of the vision model or of a dual encoder that contains it",
            )
    if convolutional:
        return ConvTower(model, layer=spec.layer)
    return VisionTower(model, layer=spec.layer, tokens=spec.tokens)


def language_config(spec: LanguageSpec) -> PretrainedConfig:
    """The configuration of the language model."""
    if spec.source is not None:
        if spec.gguf_file is None:
            return read_config(spec.source, f"{LANGUAGE}.source")
        with readable(spec.source, spec.gguf_file, LANGUAGE) as (folder, _):
            return read_config(folder, f"{LANGUAGE}.source", spec.gguf_file)
    return make_config(spec.config or {}, f"{LANGUAGE}.config")


def load_language(
    spec: LanguageSpec, config: PretrainedConfig, *, attention: str, dtype: torch.dtype
) -> PreTrainedModel:
    """The causal or encoder-decoder language model. Raises UserError where `config` is of another kind."""
    attention = attention_for(config, attention)
    kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if spec.source is None:
        make = kind.from_config
        model = _fresh(lambda: make(config, attn_implementation=attention), LANGUAGE).to(dtype)
        if (spec.config or {}).get("tie_word_embeddings") is False:
            untie(model)  # transformers' T5 ties them whatever its configuration says
        return model
    options: dict[str, Any] = {"attn_implementation": attention, "dtype": dtype}
    source = spec.source
    if not spec.gguf_file:
        return read_or_explain(lambda: kind.from_pretrained(source, **options), source, LANGUAGE)
    options["gguf_file"] = spec.gguf_file
    with readable(source, spec.gguf_file, LANGUAGE) as (folder, _):
        return read_or_explain(lambda: kind.from_pretrained(folder, **options), source, LANGUAGE)


def untie(model: PreTrainedModel) -> None:
    """Give the output embedding a matrix of its own where it shares the input embedding's."""
    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    if head is not None and head.weight is table.weight:
        head.weight = torch.nn.Parameter(table.weight.detach().clone())


def text_config(spec: TextSpec) -> PretrainedConfig:
    """The configuration of the text encoder alone, also where `spec` names a dual encoder such as CLIP."""
    if spec.source is not None:
        config = read_config(spec.source, f"{TEXT}.source")
    else:
        config = make_config(spec.config or {}, f"{TEXT}.config")
    config = getattr(config, "text_config", config)
    if config.model_type not in TEXT_MODELS and type(config) not in MODEL_MAPPING:
        raise UserError(f"no text encoder is known for a '{config.model_type}'", where=TEXT)
    return config


def load_text(spec: TextSpec, config: PretrainedConfig, *, attention: str, dtype: torch.dtype) -> PreTrainedModel:
    """The text encoder, without a pooling layer. Raises UserError where the source lacks some of its weights."""
    kind: Any = TEXT_MODELS.get(config.model_type) or MODEL_MAPPING[type(config)]
    attention = attention_for(config, attention)
    if spec.source is None:
        model = _fresh(lambda: kind._from_config(config, attn_implementation=attention), TEXT).to(dtype)
    else:
        options: dict[str, Any] = {"config": config, "attn_implementation": attention, "dtype": dtype}
        model, told = read_or_explain(
            lambda: kind.from_pretrained(spec.source, output_loading_info=True, **options), spec.source, TEXT
        )
        if lost := [name for name in told["missing_keys"] if not any(part in name for part in ("pooler.", "head."))]:
            raise UserError(
                f"'{spec.source}' holds no weights for {len(lost)} parameters of the text tower, e.g. {lost[0]}",
                where=f"{TEXT}.source",
                fix="give a checkpoint of the text encoder or of a dual encoder that contains it",
            )
    if getattr(model, "pooler", None) is not None:  # its parameters would be counted, and never have a gradient
        model.pooler = None
    if isinstance(getattr(model, "head", None), torch.nn.Linear):  # SigLIP's projection, which is the connector's here
        model.head = torch.nn.Identity()
    return model


def attention_for(config: PretrainedConfig, attention: str) -> str:
    """`attention`, or "eager" where the model caps its attention scores, which torch's fused attention cannot do."""
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return "eager" if capped and attention == "sdpa" else attention


def _fresh(make: Any, where: str) -> PreTrainedModel:
    try:
        return make()
    except (ValueError, TypeError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(f"no model can be built from this config: {error}", where=f"{where}.config") from error
