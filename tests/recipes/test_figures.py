"""The shipped recipes say what their sources say. The figures stand here a second time, so that no edit slips by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import sightline
from sightline.data import templates
from sightline.recipe import load, shipped, to_yaml
from sightline.recipe.schema import Recipe
from sightline.recipe.shipped import FOLDER

PACKAGE = Path(sightline.__path__[0])
READERS = PACKAGE / "data" / "readers"
CONNECTORS = PACKAGE / "models" / "connectors"

LLAVA_ALIGN = {
    "learn": {"connector": "all"},
    "lr": 1e-3,
    "batch": 256,
    "epochs": 1,
    "max_length": 2048,
    "schedule.kind": "cosine",
    "schedule.warmup": 0.03,
    "schedule.floor": 0.0,
    "optimizer.weight_decay": 0.0,
    "optimizer.betas": (0.9, 0.999),
    "optimizer.clip": 1.0,
}
LLAVA_INSTRUCT = {**LLAVA_ALIGN, "learn": {"connector": "all", "language": "all"}, "lr": 2e-5, "batch": 128}
LLAVA_LORA = {
    **LLAVA_INSTRUCT,
    "learn": {"connector": "all", "language": "lora"},
    "lr": {"connector": 2e-5, "language": 2e-4},
}
ALL_LEARN = {"vision": "all", "connector": "all", "language": "all"}
NANO_VLM = {
    "learn": ALL_LEARN,
    "lr": {"vision": 5e-5, "connector": 5.12e-3, "language": 5e-5},
    "steps": 40_000,
    "batch": 2 * 8,
    "micro_batch": 2,
    "max_length": 4096,
    "pack": "length",
    "schedule.warmup": 0.03,
    "schedule.floor": 0.1,
    "optimizer.weight_decay": 0.01,
    "optimizer.clip": 1.0,
}
QWEN = {
    "learn": ALL_LEARN,
    "lr": {"vision": 2e-6, "connector": 1e-5, "language": 1e-5},
    "batch": 128,
    "schedule.kind": "cosine",
    "schedule.warmup": 0.03,
    "optimizer.weight_decay": 0.1,
}
CLIP = {
    "learn": ALL_LEARN,
    "objective": {"itc": 1.0},
    "lr": 5e-4,
    "batch": 32_768,
    "epochs": 32,
    "schedule.kind": "cosine",
    "schedule.warmup": 2000,
    "optimizer.betas": (0.9, 0.98),
    "optimizer.eps": 1e-6,
    "optimizer.weight_decay": 0.2,
    "optimizer.clip": None,
}
SIGLIP = {
    "learn": ALL_LEARN,
    "objective": {"sigmoid": 1.0},
    "lr": 1e-3,
    "batch": 32_768,
    "schedule.warmup": 0.03,
    "optimizer.betas": (0.9, 0.95),
    "optimizer.clip": 1.0,
}
BLIP2 = {
    "learn": {"connector": "all"},
    "lr": 1e-4,
    "flip": True,
    "schedule.kind": "cosine",
    "schedule.warmup": 2000,
    "optimizer.betas": (0.9, 0.98),
    "optimizer.weight_decay": 0.05,
    "optimizer.clip": None,
}
BLIP2_REPRESENT = {
    **BLIP2,
    "objective": {"itc": 1, "itm": 1, "itg": 1},
    "steps": 250_000,
    "batch": 2320,
    "max_length": 32,
    "schedule.floor": 0.0,
    "pairs.smoothing": 0.1,
    "pairs.caption_smoothing": 0.1,
}
BLIP2_SPEAK = {**BLIP2, "objective": "next-token", "steps": 80_000, "schedule.floor": 0.5, "max_length": 64}
VQA_CLASSIFIER = {  # ViLT's fine-tuning, nanoVLM's towers
    "objective": "answers",
    "learn": {**ALL_LEARN, "head": "all"},
    "lr": {"vision": 5e-5, "connector": 5.12e-3, "language": 5e-5, "head": 10 * 1e-4},
    "batch": 256,
    "epochs": 10,
    "schedule.kind": "linear",
    "schedule.warmup": 0.1,
    "schedule.floor": 0.0,
    "optimizer.weight_decay": 0.01,
}
VQA_GENERATIVE = {**LLAVA_LORA, "early_stop.metric": "accuracy", "validate_every": 500}
STAGES = [
    ("vqav2-generative", "answer", VQA_GENERATIVE),
    ("vqav2-classifier", "answer", VQA_CLASSIFIER),
    ("blip2-stage1", "represent", BLIP2_REPRESENT),
    ("blip2-stage2-opt", "speak", {**BLIP2_SPEAK, "batch": 1920}),
    ("blip2-stage2-flan-t5", "speak", {**BLIP2_SPEAK, "batch": 1520}),
    ("llava-1.5-7b", "align", LLAVA_ALIGN),
    ("llava-1.5-7b", "instruct", LLAVA_INSTRUCT),
    ("llava-1.5-7b-lora", "align", LLAVA_ALIGN),
    ("llava-1.5-7b-lora", "instruct", LLAVA_LORA),
    ("nano-vlm", "train", NANO_VLM),
    ("finetune-qwen3-vl", "finetune", QWEN),
    ("clip-b32", "contrast", CLIP),
    ("siglip-b16", "judge", SIGLIP),
]
SOURCES = {
    "blip2-stage1": ("openai/clip-vit-large-patch14", "q-former", "facebook/opt-125m"),
    "blip2-stage2-opt": ("openai/clip-vit-large-patch14", "q-former", "facebook/opt-2.7b"),
    "blip2-stage2-flan-t5": ("openai/clip-vit-large-patch14", "q-former", "google/flan-t5-xl"),
    "llava-1.5-7b": ("openai/clip-vit-large-patch14-336", "mlp", "lmsys/vicuna-7b-v1.5"),
    "llava-1.5-7b-lora": ("openai/clip-vit-large-patch14-336", "mlp", "lmsys/vicuna-7b-v1.5"),
    "nano-vlm": ("google/siglip2-base-patch16-512", "pixel-shuffle", "HuggingFaceTB/SmolLM2-360M-Instruct"),
}


def _at(value: Any, key: str) -> Any:
    for name in key.split("."):
        value = getattr(value, name)
    return value


@pytest.mark.parametrize(("name", "stage", "figures"), STAGES, ids=[f"{name}-{stage}" for name, stage, _ in STAGES])
def test_stage_has_the_published_figures(name: str, stage: str, figures: dict[str, Any]) -> None:
    found = next(one for one in load(name).stages if one.name == stage)
    assert {key: _at(found, key) for key in figures} == figures


@pytest.mark.parametrize(("name", "sources"), SOURCES.items(), ids=list(SOURCES))
def test_model_joins_the_published_towers(name: str, sources: tuple[str, str, str]) -> None:
    compose = load(name).model.compose
    assert compose is not None
    assert (compose.vision.source, compose.connector.kind, compose.language.source) == sources


def test_contrastive_recipes_start_at_the_published_temperature_and_bias() -> None:
    clip, siglip = load("clip-b32").model.pair, load("siglip-b16").model.pair
    assert (clip.temperature, clip.max_scale, clip.bias, clip.embed) == (0.07, 100, None, 512)
    assert (siglip.temperature, siglip.max_scale, siglip.bias, siglip.embed) == (0.1, None, -10, 768)


def test_vqav2_is_read_as_its_authors_publish_it() -> None:
    for name in ("vqav2-generative", "vqav2-classifier"):
        recipe = load(name)
        for split, year in (("train", "train2014"), ("val", "val2014")):
            assert (recipe.data[split].reader, recipe.data[split].images) == ("vqa", f"data/coco/{year}")
            assert year in (recipe.data[split].path or "") and year in (recipe.data[split].annotations or "")
        for split in ("test-dev", "test-standard"):
            assert recipe.data[split].annotations is None and recipe.data[split].limit is None
        assert (recipe.evaluate.metric, recipe.evaluate.rule) == ("vqa", "official")
        assert recipe.data["few"].path == recipe.data["val"].path and recipe.data["train"].limit is None
    prompts = {spec.prompt for spec in load("vqav2-generative").data.values()}
    assert prompts == {"{question}\nAnswer the question using a single word or phrase."}, "LLaVA-1.5, table 7"
    compose = load("vqav2-classifier").model.compose
    assert compose is not None and compose.head is not None
    assert (compose.head.answers, compose.head.min_count, compose.head.targets) == (3129, 9, "leave-one-out")


def test_llava_takes_the_last_but_one_hidden_state_of_padded_images() -> None:
    for name in ("llava-1.5-7b", "llava-1.5-7b-lora"):
        vision = load(name).model.compose.vision
        assert (vision.layer, vision.tokens, vision.resize) == (-2, "patch", "pad")


def test_blip2_has_32_queries_compared_in_256_numbers_and_reranks_128() -> None:
    for name in ("blip2-stage1", "blip2-stage2-opt", "blip2-stage2-flan-t5"):
        compose = load(name).model.compose
        assert compose is not None
        assert (compose.connector.queries, compose.connector.embed, compose.vision.layer) == (32, 256, -2)
    assert load("blip2-stage1").evaluate.rerank == 128


def test_llava_lora_is_of_rank_128_and_alpha_256() -> None:
    for name in ("llava-1.5-7b-lora", "vqav2-generative"):
        lora = load(name).model.lora
        assert lora is not None
        assert (lora.rank, lora.alpha, lora.dropout, lora.towers) == (128, 256, 0.05, ("language",))


def test_the_recipes_of_the_first_release_are_there() -> None:
    assert {"quickstart", "llava-1.5-7b", "llava-1.5-7b-lora", "nano-vlm", "finetune-qwen3-vl"} <= set(shipped())


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_recipe_is_complete(name: str) -> None:
    recipe = load(name)
    assert recipe.name == name
    assert shipped()[name] == recipe.summary
    assert recipe.sources, "a shipped recipe names the papers or code that its figures come from"
    for spec in recipe.data.values():
        assert (READERS / f"{spec.reader.replace('-', '_')}.py").is_file(), f"no reader is called {spec.reader}"
    if recipe.model.compose:
        assert (CONNECTORS / f"{recipe.model.compose.connector.kind.replace('-', '_')}.py").is_file()
        templates.named(recipe.model.compose.template)


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.yaml")))
def test_recipe_survives_being_written_and_read(name: str, tmp_path: Path) -> None:
    recipe = load(name)
    file = tmp_path / "recipe.yaml"
    file.write_text(to_yaml(recipe), encoding="utf-8")
    assert load(str(file)) == recipe
    assert isinstance(recipe, Recipe)
