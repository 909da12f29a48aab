"""Tiny models and rows that the tests of this folder share."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from sightline.data.batch import Batch
from sightline.data.pack import pack
from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.models.build import Built, build
from sightline.recipe.schema import Compose, ModelSpec

VISION = {
    "model_type": "clip_vision_model",
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
    "projection_dim": 16,
}
LANGUAGE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 256,
}
TEXTS = ("What color is the shape? It is a red circle, yes or no.", "Is there a blue square? green triangle")


def png(color: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    """A picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "PNG")
    return buffer.getvalue()


def row(number: int, question: str, answer: str, *, image: int | None = 0, images: int = 1) -> Row:
    """A question about picture `image` (None: about no picture) and its answer."""
    pictures = () if image is None else tuple(range(image, image + images))
    refs = tuple(ImageRef(f"picture-{i}", data=png(((i * 90) % 256, (i * 50) % 256, 120))) for i in pictures)
    asked = Turn("user", (*(Picture() for _ in pictures), question))
    return Row(Where("test.json", number), (asked, Turn("assistant", (answer,))), refs)


@pytest.fixture
def rows() -> list[Row]:
    """Five rows over two pictures, of different lengths."""
    return [
        row(1, "What color is the shape?", "red"),
        row(2, "Is there a blue square?", "no"),
        row(3, "What is the shape?", "a red circle"),
        row(4, "What color is the shape?", "green", image=1),
        row(5, "Is it a triangle, yes or no?", "yes", image=1),
    ]


@pytest.fixture
def compose() -> Callable[..., Built]:
    """A composed model; keyword arguments replace parts of the recipe's `compose`, `model_*` those of `model`."""

    def make(seed: int = 0, lora: Any = None, attention: str = "sdpa", **parts: Any) -> Built:
        return build(spec(lora=lora, attention=attention, **parts), seed=seed, texts=TEXTS)

    return make


def spec(lora: Any = None, attention: Any = "sdpa", **parts: Any) -> ModelSpec:
    """A tiny recipe's `model`."""
    given: dict[str, Any] = {
        "vision": {"config": VISION},
        "language": {"config": LANGUAGE},
        "tokenizer": {"build": "words"},
        "template": "qa",
    } | parts
    return ModelSpec(compose=Compose.model_validate(given), lora=lora, attention=attention)


def batch_of(built: Built, rows: list[Row], mode: Any = "none", max_length: int = 200) -> Batch:
    """`rows` as a training batch."""
    return built.encoder.collate(pack([built.encoder.encode(row) for row in rows], mode, max_length))


def prompts_of(built: Built, rows: list[Row]) -> Batch:
    """`rows` as a batch of prompts to continue."""
    examples = [built.encoder.encode_prompt(row) for row in rows]
    return built.encoder.collate(pack(examples, "none", 200), pad_left=True)
