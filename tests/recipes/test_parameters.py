"""Shipped recipes on the meta device: each tower counts what its authors say, and each stage trains what it should."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from sightline.models.build import build_meta
from sightline.models.vlm import VLM
from sightline.recipe import load
from sightline.recipe.schema import TOWERS, ModelSpec
from sightline.train.freeze import freeze
from tests.recipes import published
from tests.recipes.published import CONFIGS, linear

# LLaVA takes the last but one hidden state, so CLIP's 24th block and final norm are not part of the model.
CLIP_L_336 = published.clip_l_336(blocks=23, post_norm=False)
VICUNA_7B = published.llama(4096, 11008, 32, 4096, 32000, tied=False)
LLAVA_PROJECTOR = linear(1024, 4096) + linear(4096, 4096)
VICUNA_LORA = published.lora(128, 32 * [*4 * [(4096, 4096)], *2 * [(4096, 11008)], (11008, 4096)])
LLAVA = {"vision": CLIP_L_336, "connector": LLAVA_PROJECTOR, "language": VICUNA_7B}
NANO_VLM = {
    "vision": published.siglip2_b_512(),
    "connector": linear(4 * 4 * 768, 960) + linear(960, 960),
    "language": published.llama(960, 2560, 32, 320, 49152, tied=True),
}
# The adopted model keeps CLIP whole, its last block and final norm included.
VQA_GENERATIVE = {
    "vision": published.clip_l_336(blocks=24, post_norm=True),
    "connector": LLAVA_PROJECTOR,
    "language": published.llama(4096, 11008, 32, 4096, 32064, tied=False) + VICUNA_LORA,
}
VQA_CLASSIFIER = {**NANO_VLM, "head": linear(960, 2 * 960) + linear(2 * 960, 3129)}
QWEN = {
    "vision": published.QWEN3_VL_2B_TOTAL - published.qwen3_vl_connector() - 1_720_574_976,
    "connector": published.qwen3_vl_connector(),
    "language": 1_720_574_976,  # Qwen3-1.7B, https://huggingface.co/Qwen/Qwen3-1.7B
}
# BLIP-2 removes CLIP's last block as well.
CLIP_L_224 = published.clip_l_336(blocks=23, post_norm=False, positions=257)
LOOKS, READS = published.q_former_queries(1024), published.q_former_texts()
OPT_125M, OPT_2_7B = published.opt(768, 3072, 12), published.opt(2560, 10240, 32)
FLAN_T5_XL = published.flan_t5(2048, 5120, 24, 32, 64, 32128)


def _blip2(width: int, language: int) -> dict[str, int]:
    return {"vision": CLIP_L_224, "connector": LOOKS + READS + linear(768, width), "language": language}


COUNTS = {
    "blip2-stage1": _blip2(768, OPT_125M),
    "blip2-stage2-opt": _blip2(2560, OPT_2_7B),
    "blip2-stage2-flan-t5": _blip2(2048, FLAN_T5_XL),
    "llava-1.5-7b": LLAVA,
    "llava-1.5-7b-lora": {**LLAVA, "language": VICUNA_7B + VICUNA_LORA},
    "nano-vlm": NANO_VLM,
    "vqav2-generative": VQA_GENERATIVE,
    "vqav2-classifier": VQA_CLASSIFIER,
    "finetune-qwen3-vl": QWEN,
    "clip-b32": published.clip_b_32(),
    "siglip-b16": published.siglip_b_16(),
}
TRAINABLE = {
    ("blip2-stage1", "represent"): {"connector": LOOKS + READS},
    ("blip2-stage2-opt", "speak"): {"connector": LOOKS + linear(768, 2560)},
    ("blip2-stage2-flan-t5", "speak"): {"connector": LOOKS + linear(768, 2048)},
    ("llava-1.5-7b", "align"): {"connector": LLAVA_PROJECTOR},
    ("llava-1.5-7b", "instruct"): {"connector": LLAVA_PROJECTOR, "language": VICUNA_7B},
    ("llava-1.5-7b-lora", "align"): {"connector": LLAVA_PROJECTOR},
    ("llava-1.5-7b-lora", "instruct"): {"connector": LLAVA_PROJECTOR, "language": VICUNA_LORA},
    ("nano-vlm", "train"): NANO_VLM,
    ("vqav2-generative", "answer"): {"connector": LLAVA_PROJECTOR, "language": VICUNA_LORA},
    ("vqav2-classifier", "answer"): VQA_CLASSIFIER,
    ("finetune-qwen3-vl", "finetune"): QWEN,
    ("clip-b32", "contrast"): published.clip_b_32(),
    ("siglip-b16", "judge"): published.siglip_b_16(),
}


def test_hand_derived_counts_are_the_published_ones() -> None:
    assert published.clip_l_336(blocks=24, post_norm=True) == 303_507_456
    assert LLAVA_PROJECTOR == 20_979_712
    assert VICUNA_7B == 6_738_415_616  # Llama-2-7B, of which Vicuna is a fine-tuning
    assert published.llama(960, 2560, 32, 320, 49152, tied=True) == 361_821_120
    assert VICUNA_LORA == 319_815_680
    assert sum(published.clip_b_32().values()) == 151_277_313
    assert sum(published.siglip_b_16().values()) == 203_155_970


def test_hand_derived_counts_are_those_of_blip2s_paper() -> None:
    """arXiv 2301.12597: 188M with ViT-g (section 3.1); in stage 2 (tables 1 and 2) 104M, 103M; with ViT-g 107M."""
    assert round((published.q_former_queries(1408) + READS + linear(768, 2560)) / 1e6, 1) == 188.7
    assert round((LOOKS + linear(768, 2560)) / 1e6) == 104
    assert round((LOOKS + linear(768, 2048)) / 1e6) == 103
    assert round((published.q_former_queries(1408) + linear(768, 2560)) / 1e6) == 107
    assert (OPT_125M, OPT_2_7B) == (125_239_296, 2_651_596_800)
    assert FLAN_T5_XL == 2_849_757_184  # the hub's safetensors metadata


def _model(name: str) -> ModelSpec:
    """The shipped recipe's model with its hub ids replaced by the published configurations."""
    spec = load(name).model
    if spec.adopt:
        return spec.model_copy(update={"adopt": _published(spec.adopt)})
    if spec.pair:
        return spec  # from configurations
    assert spec.compose is not None
    towers = {"vision": _published(spec.compose.vision), "language": _published(spec.compose.language)}
    return spec.model_copy(update={"compose": spec.compose.model_copy(update=towers)})


@cache
def _meta(name: str) -> VLM:
    """Built once: making hundreds of meta modules takes a second."""
    return build_meta(_model(name))


def _published(part: Any) -> Any:
    return part.model_copy(update={"source": None, "config": CONFIGS[part.source]})


def _counts(model: VLM) -> dict[str, int]:
    towers = (*TOWERS, "head") if getattr(model, "head", None) is not None else TOWERS
    return {tower: sum(p.numel() for _, p in model.tower_parameters(tower)) for tower in towers}


@pytest.mark.parametrize("name", COUNTS)
def test_towers_count_what_their_authors_say(name: str) -> None:
    model = _meta(name)
    assert _counts(model) == COUNTS[name]
    assert {parameter.device for parameter in model.parameters()} == {torch.device("meta")}
    assert sum(p.numel() for p in model.parameters()) == sum(COUNTS[name].values()), "a parameter belongs to no tower"


@pytest.mark.parametrize("name", COUNTS)
def test_hub_ids_of_shipped_recipes_are_known_offline(name: str) -> None:
    assert _counts(build_meta(load(name).model)) == COUNTS[name]


@pytest.mark.parametrize(("name", "stage"), TRAINABLE, ids=["-".join(key) for key in TRAINABLE])
def test_stage_trains_what_it_should(name: str, stage: str) -> None:
    model = _meta(name)
    plans = freeze(model, next(one for one in load(name).stages if one.name == stage))
    assert {tower: plan.trainable for tower, plan in plans.items() if plan.trainable} == TRAINABLE[name, stage]
    frozen = {tower: count - TRAINABLE[name, stage].get(tower, 0) for tower, count in COUNTS[name].items()}
    assert {tower: plan.frozen for tower, plan in plans.items()} == frozen


def test_lora_lands_in_the_language_tower_alone() -> None:
    model = _meta("llava-1.5-7b-lora")
    towers = {tower for tower in TOWERS for name, _ in model.tower_parameters(tower) if "lora_" in name}
    assert towers == {"language"}


def test_a_wrong_width_is_counted() -> None:
    """The control: the count moves when the model does."""
    spec = _model("llava-1.5-7b")
    assert spec.compose is not None
    wider = spec.compose.connector.model_copy(update={"hidden": 4097})
    changed = spec.model_copy(update={"compose": spec.compose.model_copy(update={"connector": wider})})
    assert _counts(build_meta(changed))["connector"] == LLAVA_PROJECTOR + 1024 + 1 + 4096
