"""The vision tower: cut where it is read, from every family, from dual encoders, NaFlex patches in the right order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel

from sightline.errors import UserError
from sightline.models.towers import load_vision, vision_config
from sightline.models.vision import VisionTower
from sightline.recipe.schema import VisionSpec

SMALL = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "clip_vision_model": SMALL,
    "siglip_vision_model": SMALL,
    "siglip2_vision_model": {k: v for k, v in SMALL.items() if k != "image_size"} | {"num_patches": 4},
    "dinov2": {k: v for k, v in SMALL.items() if k != "intermediate_size"} | {"mlp_ratio": 2},
    "dinov2_with_registers": {k: v for k, v in SMALL.items() if k != "intermediate_size"} | {"num_register_tokens": 2},
    "vit": SMALL,
}
PIXELS = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def load(source: Path | str, **fields: Any) -> VisionTower:
    given = VisionSpec(source=str(source), **fields)
    return load_vision(given, vision_config(given), attention="sdpa", dtype=torch.float32).eval()


@pytest.fixture(params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Any, Path]:
    """A random model of each family, saved to disk."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(request.param, **FAMILIES[request.param])).eval()
    model.save_pretrained(tmp_path)
    return request.param, model, tmp_path


def inputs(tower: VisionTower) -> dict[str, torch.Tensor]:
    return tower._patchify(PIXELS) if tower.naflex else {"pixel_values": PIXELS}


@pytest.mark.parametrize("layer", [-2, 1, 3])
def test_is_the_hidden_state_that_transformers_gives(saved: tuple[str, Any, Path], layer: int) -> None:
    _, model, folder = saved
    tower = load(folder, layer=layer, tokens="all")
    with torch.no_grad():
        hidden = model(**inputs(tower), output_hidden_states=True).hidden_states[layer]
        torch.testing.assert_close(tower(PIXELS), hidden)


def test_last_layer_is_the_models_output_without_class_tokens(saved: tuple[str, Any, Path]) -> None:
    kind, model, folder = saved
    tower = load(folder, layer=-1)
    with torch.no_grad():
        output = model(**inputs(tower)).last_hidden_state
        torch.testing.assert_close(tower(PIXELS), output[:, -4:])
    assert tower.count == 4 == tower(PIXELS).shape[1]
    assert tower.skip == {"clip_vision_model": 1, "dinov2": 1, "vit": 1, "dinov2_with_registers": 3}.get(kind, 0)


@pytest.mark.parametrize("layer", [-1, -2])
def test_every_parameter_takes_part(saved: tuple[str, Any, Path], layer: int) -> None:
    tower = load(saved[2], layer=layer)
    tower(PIXELS).square().sum().backward()
    assert [name for name, parameter in tower.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_dual_encoder_gives_its_vision_part(kind: str, tmp_path: Path) -> None:
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model(kind, vision_config=SMALL, text_config=text | {"vocab_size": 50})
    torch.manual_seed(0)
    dual = AutoModel.from_config(config).eval()
    dual.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = dual.vision_model(PIXELS).last_hidden_state
        torch.testing.assert_close(load(tmp_path, layer=-1, tokens="all")(PIXELS), expected)


def test_naflex_patches_are_those_of_its_image_processor() -> None:
    processing = pytest.importorskip("transformers.models.siglip2.image_processing_pil_siglip2")
    tower = VisionTower(
        AutoModel.from_config(AutoConfig.for_model("siglip2_vision_model", **FAMILIES["siglip2_vision_model"]))
    )
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    processor = processing.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=4)
    expected = processor(Image.fromarray(picture), return_tensors="pt")
    pixels = (torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    made = tower._patchify(pixels)
    torch.testing.assert_close(made["pixel_values"], expected["pixel_values"], atol=1e-5, rtol=0)
    assert made["spatial_shapes"].tolist() == expected["spatial_shapes"].tolist()


@pytest.mark.parametrize("layer", [0, 4, -4, -9])
def test_hidden_state_that_does_not_exist(layer: int) -> None:
    with pytest.raises(UserError, match=r"model\.compose\.vision\.layer"):
        VisionTower(AutoModel.from_config(AutoConfig.for_model("vit", **SMALL)), layer=layer)


def test_model_that_is_no_vision_model(tmp_path: Path) -> None:
    AutoConfig.for_model("llama").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'llama' is no vision model"):
        vision_config(VisionSpec(source=str(tmp_path)))


def test_source_without_the_weights(tmp_path: Path) -> None:
    AutoModel.from_config(AutoConfig.for_model("clip_vision_model", **SMALL)).save_pretrained(tmp_path)
    AutoConfig.for_model("siglip_vision_model", **SMALL).save_pretrained(tmp_path)  # another model's configuration
    with pytest.raises(UserError, match=str(tmp_path)):
        load(tmp_path)
