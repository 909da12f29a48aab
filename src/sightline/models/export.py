"""A composed VLM as a model that others can load: LLaVA where LLaVA can say it, else Sightline's own folder.

LLaVA (`LlavaForConditionalGeneration`) can say: a CLIP or SigLIP tower's hidden state before any final norm, one or two
linear maps with a GELU, and a decoder whose output embedding is all that follows its last hidden state.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel

from sightline.atomic import replacing
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.pixels import ImageProcessorFacts
from sightline.models.adapters import merged_state
from sightline.models.chat_template import jinja
from sightline.models.vision import VisionTower
from sightline.models.vision_conv import ConvTower
from sightline.recipe.schema import Compose, Lora

VISIONS = ("clip_vision_model", "siglip_vision_model")
# Decoders of which transformers' LLaVA keeps everything: others scale or cap their logits in their own forward pass.
LANGUAGES = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "smollm3")
PIL_RESAMPLE = {"bicubic": 3, "bilinear": 2}
DESCRIPTION, WEIGHTS = "sightline.json", "model.safetensors"
PAIRS = "pairs"  # the folder of a Q-Former's own tokenizer


@dataclass(frozen=True, slots=True)
class Parts:
    """What a composed VLM is made of."""

    vision: VisionTower
    connector: nn.Module
    language: PreTrainedModel
    spec: Compose
    image_token_id: int
    eos_ids: tuple[int, ...]
    encoder: ComposedEncoder | None


def export(parts: Parts, state: dict[str, Tensor], folder: Path) -> str:
    """Write the model with weights `state` (named by tower, no adapters) into `folder`; returns how to load it."""
    folder.mkdir(parents=True, exist_ok=True)
    if why_not_llava(parts) is None:
        _save_llava(parts, state, folder)
        return f"transformers.LlavaForConditionalGeneration.from_pretrained({str(folder)!r})"
    describe(parts, folder, lora=None)
    write_weights(state, folder / WEIGHTS)
    return f"sightline.models.saved.load_model({str(folder)!r})"


def why_not_llava(parts: Parts) -> str | None:
    """What LLaVA cannot say about this model, or None."""
    vision, language = parts.vision.config.model_type, parts.language.config
    hidden = parts.spec.connector.hidden
    if parts.spec.head is not None:
        return "it chooses answers by a head"
    if vision not in VISIONS:
        return f"its vision tower is a {vision}"
    if parts.vision.normed:
        return "its vision features have passed the tower's final norm"
    if parts.spec.connector.kind not in ("linear", "mlp"):
        return f"its connector is a {parts.spec.connector.kind}"
    if hidden is not None and hidden != language.hidden_size:
        return f"its connector has {hidden} hidden units, not the language tower's width"
    if language.model_type not in LANGUAGES:
        return f"its language tower is a {language.model_type}"
    return None


def _save_llava(parts: Parts, state: dict[str, Tensor], folder: Path) -> None:
    linear, tied = parts.spec.connector.kind == "linear", parts.language.config.tie_word_embeddings
    config = LlavaConfig(
        vision_config=copy.deepcopy(parts.vision.config),
        text_config=copy.deepcopy(parts.language.config),
        image_token_index=parts.image_token_id,
        image_seq_length=parts.vision.count,
        projector_hidden_act="linear" if linear else "gelu",
        vision_feature_layer=-1,  # the tower is cut where the connector reads it
        vision_feature_select_strategy="default" if parts.vision.skip else "full",
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    weights = _renamed(state, linear)
    for name, parameter in llava.named_parameters():
        if "vision_tower" in name and name not in weights:  # the final norm, which LLaVA keeps but never reads
            weights[name] = torch.full(parameter.shape, float(name.endswith("weight")), dtype=parts.vision.model.dtype)
    if tied:
        weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"]
    llava.load_state_dict(weights, assign=True)
    llava.to(parts.language.dtype)
    llava.generation_config = copy.deepcopy(parts.language.generation_config)
    llava.generation_config.eos_token_id = list(parts.eos_ids)
    llava.generation_config.pad_token_id = parts.language.config.pad_token_id
    llava.save_pretrained(folder)
    if parts.encoder is not None:
        _save_processor(parts, parts.encoder, folder)


def _renamed(state: dict[str, Tensor], linear: bool) -> dict[str, Tensor]:
    """Our names to LLaVA's. A linear connector becomes its first map, and its second the identity."""
    first = {"connector.": "model.multi_modal_projector.linear_1."}
    both = {
        "connector.0.": "model.multi_modal_projector.linear_1.",
        "connector.2.": "model.multi_modal_projector.linear_2.",
    }
    towers = {"vision.model.": "model.vision_tower.", "language.model.": "model.language_model.", "language.": ""}
    weights = {}
    for name, value in state.items():
        old = next(prefix for prefix in (*(first if linear else both), *towers) if name.startswith(prefix))
        weights[{**first, **both, **towers}[old] + name.removeprefix(old)] = value
    if linear:
        width = state["connector.bias"].shape[0]
        second = "model.multi_modal_projector.linear_2."
        weights[f"{second}weight"] = torch.eye(width, dtype=state["connector.bias"].dtype)
        weights[f"{second}bias"] = torch.zeros_like(state["connector.bias"])
    return weights


def _save_processor(parts: Parts, encoder: ComposedEncoder, folder: Path) -> None:
    """The files that transformers' `AutoProcessor` reads."""
    facts = encoder.image_processor
    encoder.tokenizer.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", _image_processor(facts) | {"processor_class": "LlavaProcessor"})
    processor = {
        "processor_class": "LlavaProcessor",
        "patch_size": parts.vision.config.patch_size,
        "vision_feature_select_strategy": "default" if parts.vision.skip else "full",
        "num_additional_image_tokens": int(parts.vision.kind.class_token),
        "image_token": parts.spec.image_token,
    }
    write_json(folder / "processor_config.json", processor)
    end = encoder.tokenizer.convert_ids_to_tokens(encoder.eos_id)
    chat = jinja(encoder.template, image_token=parts.spec.image_token, end=end)
    with replacing(folder / "chat_template.jinja") as temporary:
        temporary.write_text(chat, encoding="utf-8")


def _image_processor(facts: ImageProcessorFacts) -> dict[str, Any]:
    square = {"height": facts.size, "width": facts.size}
    common = {
        "do_resize": True,
        "resample": PIL_RESAMPLE[facts.resample],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(facts.mean),
        "image_std": list(facts.std),
        "do_convert_rgb": True,
    }
    if facts.resize == "squash":
        return common | {"image_processor_type": "SiglipImageProcessor", "size": square}
    cropped = {"size": {"shortest_edge": facts.size}, "crop_size": square, "do_center_crop": True}
    if facts.resize == "crop":
        return common | cropped | {"image_processor_type": "CLIPImageProcessor"}
    return common | cropped | {"image_processor_type": "LlavaImageProcessor", "do_pad": True}


def describe(parts: Parts, folder: Path, lora: Lora | None) -> None:
    """Write what `saved.load_model` needs beside the weights: configurations, recipe part, tokenizer, image facts."""
    folder.mkdir(parents=True, exist_ok=True)
    # As the recipe asked: a language tower may have fallen back on eager, and a convolution has no attention.
    asked = parts.language if isinstance(parts.vision, ConvTower) else parts.vision
    description = {
        "compose": parts.spec.model_dump(mode="json"),
        "vision": parts.vision.origin,
        "language": parts.language.config.to_dict(),
        "attention": asked.config._attn_implementation,
        "image_token_id": parts.image_token_id,
        "eos_ids": list(parts.eos_ids),
        "lora": lora.model_dump(mode="json") if lora else None,
    }
    write_json(folder / DESCRIPTION, description)
    if parts.encoder is not None:
        parts.encoder.save(folder)


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The state of `module` without adapters, each tied tensor once."""
    state = merged_state(module)
    kept: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, value in state.items():
        kept.setdefault((value.data_ptr(), tuple(value.shape)), name)
    return {name: state[name] for name in kept.values()}


def write_weights(state: dict[str, Tensor], path: Path) -> None:
    """Write `state` as one safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    with replacing(path) as temporary:
        save_file({name: value.detach().contiguous() for name, value in state.items()}, temporary)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as one JSON file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, default=str) + "\n", encoding="utf-8")
