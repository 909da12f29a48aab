"""What a run saves: LLaVA where LLaVA can say it, loaded by transformers alone; else a folder that Sightline loads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from sightline.data.batch import IGNORE
from sightline.data.pixels import normalised, resized
from sightline.data.row import Row
from sightline.models.adapters import add_adapters
from sightline.models.build import Built
from sightline.models.saved import load_model
from sightline.recipe.schema import Lora
from tests.models.conftest import LANGUAGE, VISION, batch_of, prompts_of

Compose = Callable[..., Built]
SIGLIP = {k: v for k, v in VISION.items() if k != "projection_dim"} | {"model_type": "siglip_vision_model"}
SAYABLE: dict[str, dict[str, Any]] = {
    "clip": {"vision": {"config": VISION, "layer": -2}},
    "clip-last": {"vision": {"config": VISION, "layer": -1}},
    "clip-class-token": {"vision": {"config": VISION, "layer": -2, "tokens": "all"}},
    "siglip": {"vision": {"config": SIGLIP, "layer": -2}},
    "siglip-last": {"vision": {"config": SIGLIP, "layer": 3}},
    "linear": {"connector": {"kind": "linear"}},
    "tied": {"language": {"config": LANGUAGE | {"tie_word_embeddings": True}}},
    "qwen2": {"language": {"config": LANGUAGE | {"model_type": "qwen2"}}},
}
NOT_SAYABLE: dict[str, dict[str, Any]] = {
    "pixel-shuffle": {"connector": {"kind": "pixel-shuffle"}},
    "wide": {"connector": {"kind": "mlp", "hidden": 40}},
    "normed": {"vision": {"config": SIGLIP, "layer": -1}},
    "capped": {"language": {"config": LANGUAGE | {"model_type": "gemma2"}}},
    "dinov2": {"vision": {"config": {"model_type": "dinov2", "hidden_size": 24, "num_hidden_layers": 2,
                                     "num_attention_heads": 2, "image_size": 16, "patch_size": 8}}},
}  # fmt: skip


@pytest.mark.parametrize("kind", SAYABLE)
def test_llava_gives_the_same_logits_and_words(kind: str, compose: Compose, rows: list[Row], tmp_path: Path) -> None:
    built = compose(**SAYABLE[kind], seed=2)
    how = built.model.eval().save(tmp_path)
    assert how == f"transformers.LlavaForConditionalGeneration.from_pretrained('{tmp_path}')"
    llava = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    batch = batch_of(built, rows)
    with torch.no_grad():
        pixels = batch.pixel_values[batch.image_index]
        whole = llava(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), pixel_values=pixels).logits
        logits, _ = built.model(batch)
    torch.testing.assert_close(logits, whole[:, :-1][batch.labels[:, 1:] != IGNORE], atol=1e-5, rtol=1e-5)
    prompt = prompts_of(built, rows[:1])
    said = llava.generate(
        input_ids=prompt.input_ids, attention_mask=prompt.attention_mask.long(), pixel_values=prompt.pixel_values,
        max_new_tokens=5, do_sample=False,
    )[0, prompt.input_ids.shape[1] :].tolist()  # fmt: skip
    end = built.encoder.eos_id
    assert built.model.generate(prompt, 5)[0] == (said[: said.index(end)] if end in said else said)


def test_adapters_are_merged_into_llava(compose: Compose, rows: list[Row], tmp_path: Path) -> None:
    built = compose()
    add_adapters(built.model, Lora(rank=2, towers=("language", "connector")))
    with torch.no_grad():
        for name, parameter in built.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    built.model.eval().save(tmp_path)
    llava = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    batch = batch_of(built, rows[:1])
    whole = llava(input_ids=batch.input_ids, pixel_values=batch.pixel_values).logits
    here = batch.labels[:, 1:] != IGNORE
    torch.testing.assert_close(built.model(batch)[0], whole[:, :-1][here], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_processor_prepares_text_and_image_as_the_encoder(resize: str, compose: Compose, tmp_path: Path) -> None:
    built = compose(vision={"config": VISION, "resize": resize})
    built.model.save(tmp_path)
    processor = AutoProcessor.from_pretrained(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 31, 3), dtype=np.uint8))
    made = processor(images=picture, text="<image> is there a circle?", return_tensors="pt")
    facts = built.encoder.image_processor
    torch.testing.assert_close(
        made["pixel_values"], normalised(resized(picture, facts)[None], facts), atol=0.02, rtol=0
    )
    ids = made["input_ids"][0].tolist()
    assert ids.count(built.encoder.image_token_id) == built.encoder.tokens_per_image
    assert built.encoder.decode(ids) == "is there a circle ?"


@pytest.mark.parametrize("kind", NOT_SAYABLE)
def test_what_llava_cannot_say_comes_back_by_sightline(
    kind: str, compose: Compose, rows: list[Row], tmp_path: Path
) -> None:
    built = compose(**NOT_SAYABLE[kind])
    how = built.model.eval().save(tmp_path)
    assert how == f"sightline.models.saved.load_model('{tmp_path}')"
    again = load_model(tmp_path)
    for mode in ("none", "image"):
        one, two = (batch_of(each, rows, mode) for each in (built, again))
        assert torch.equal(one.input_ids, two.input_ids)
        assert torch.equal(built.model(one)[0], again.model(two)[0])
    assert again.model.generate(prompts_of(again, rows), 4) == built.model.generate(prompts_of(built, rows), 4)
    assert json.loads((tmp_path / "sightline.json").read_text())["lora"] is None
