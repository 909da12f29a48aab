"""The convolutional tower: the last feature map of transformers' model, cell by cell, and nothing that disturbs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.build import Built
from sightline.models.saved import load_run
from sightline.models.towers import load_vision, vision_config
from sightline.models.vision_conv import ConvTower
from sightline.recipe.schema import VisionSpec
from tests.models.conftest import batch_of
from tests.models.test_saved import write_run

Compose = Callable[..., Built]
SMALL: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 2], "layer_type": "basic"}
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SPEC = VisionSpec(config={"model_type": "resnet", **SMALL}, layer=-1, image_size=32)


def tower(spec: VisionSpec) -> Any:
    return load_vision(spec, vision_config(spec), attention="eager", dtype=torch.float32).eval()


@pytest.mark.parametrize("downsample", [False, True])
def test_tokens_are_the_cells_of_the_last_feature_map(tmp_path: Path, downsample: bool) -> None:
    torch.manual_seed(0)
    model = ResNetModel(ResNetConfig(**SMALL, downsample_in_first_stage=downsample)).eval()
    model.save_pretrained(tmp_path)
    found = tower(VisionSpec(source=str(tmp_path), layer=-1, image_size=32))
    with torch.no_grad():
        features, grid = found(PIXELS), model(PIXELS).last_hidden_state
    assert isinstance(found, ConvTower)
    assert features.shape == (2, found.count, found.width) == (2, grid.shape[2] * grid.shape[3], 12)
    torch.testing.assert_close(features[:, 1], grid[:, :, 0, 1])
    torch.testing.assert_close(features[:, found.count - 1], grid[:, :, -1, -1])


def test_every_parameter_takes_part() -> None:
    found = tower(SPEC)
    found(PIXELS).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in found.parameters())
    assert len(found.blocks) == 3


def test_a_batch_of_text_leaves_batch_norm_alone(compose: Compose, rows: list[Row]) -> None:
    built = compose(vision=SPEC)
    turns = tuple(dataclasses.replace(t, parts=tuple(p for p in t.parts if isinstance(p, str))) for t in rows[0].turns)
    text = [dataclasses.replace(rows[0], turns=turns, images=())]
    built.model.train()
    before = {name: value.clone() for name, value in built.model.named_buffers()}
    built.model(batch_of(built, text))[0].sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in built.model.named_buffers())
    assert all(p.grad is not None for p in built.model.vision.parameters())
    built.model(batch_of(built, rows))  # and one with pictures does not
    assert not all(torch.equal(value, before[name]) for name, value in built.model.named_buffers())


def test_a_saved_run_comes_back(compose: Compose, rows: list[Row], tmp_path: Path) -> None:
    built = compose(vision=SPEC)
    write_run(built, tmp_path)
    again = load_run(tmp_path)
    batch = batch_of(built, rows)
    with torch.no_grad():
        torch.testing.assert_close(again.model.eval()(batch)[0], built.model.eval()(batch)[0])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_size": None}, "does not say how large its images are"),
        ({"image_size": 20}, "no whole number of 8-pixel cells"),
        ({"layer": -2}, "no hidden state -2"),
    ],
)
def test_what_cannot_be_built(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        tower(SPEC.model_copy(update=change))
