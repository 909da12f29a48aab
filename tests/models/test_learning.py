"""Models that learn: two rows by heart, composed and adopted; and a really pretrained language tower on real photos."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModelForImageTextToText

from sightline.data.batch import Batch
from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.models.adopted import AdoptedVLM
from sightline.models.build import Built, build
from sightline.models.vlm import VLM
from sightline.recipe.schema import Adopt
from tests.models.conftest import VISION, batch_of, prompts_of, row, spec
from tests.models.families import CONFIGS, batch

SHARED = Path(__file__).parents[3] / "shared" / "data"
STORIES = SHARED / "weights" / "stories260K.gguf"
COCO = SHARED / "coco_tiny"


def learn(model: VLM, rows: Batch, steps: int, lr: float) -> list[float]:
    """The loss per token before each step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    losses = []
    for _ in range(steps):
        logits, targets = model(rows)
        loss = F.cross_entropy(logits, targets)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses


@pytest.mark.slow
def test_composed_learns_by_heart_what_only_the_picture_tells(compose: Callable[..., Built]) -> None:
    built = compose()
    rows = [row(1, "What color is the shape?", "red"), row(2, "What color is the shape?", "green", image=1)]
    losses = learn(built.model.train(), batch_of(built, rows), steps=120, lr=5e-3)
    assert losses[-1] < 0.01 < losses[0]
    said = built.model.generate(prompts_of(built, rows), 4)
    assert [built.encoder.decode(tokens) for tokens in said] == ["red", "green"]


@pytest.mark.slow
def test_adopted_learns_by_heart() -> None:
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(AutoConfig.for_model("llava", **CONFIGS["llava"]))
    vlm = AdoptedVLM(model, Adopt(source="here")).train()
    assert learn(vlm, batch("llava"), steps=120, lr=5e-3)[-1] < 0.01
    assert vlm.generate(batch("llava", prompt=True), 5) == [[8, 9], [10]]


@pytest.fixture
def stories() -> Built:
    """A tiny vision tower and a 260,000-parameter Llama that was trained on children's stories."""
    if not STORIES.is_file():
        pytest.skip(f"no {STORIES.name}")
    pytest.importorskip("gguf")
    language = {"source": str(STORIES.parent), "gguf_file": STORIES.name}
    parts = {"language": language, "tokenizer": {}, "template": "story", "vision": {"config": VISION}}
    return build(spec(**parts), seed=0)


def test_pretrained_language_tower_really_is(stories: Built) -> None:
    encoder = stories.encoder
    text = "Once upon a time, there was a little girl named Lily. She loved to play outside in the park."
    ids = torch.tensor([[encoder.tokenizer.bos_token_id, *encoder.tokenizer(text, add_special_tokens=False).input_ids]])
    with torch.no_grad():
        logits = stories.model.language(input_ids=ids).logits
    loss = float(F.cross_entropy(logits[0, :-1], ids[0, 1:]))
    assert loss < 1.5  # one of 512 tokens at random: 6.24


@pytest.mark.slow
def test_captions_of_real_photos_are_learned(stories: Built) -> None:
    if not COCO.is_dir():
        pytest.skip("no coco_tiny")
    found = json.loads((COCO / "annotations" / "captions_train2017.json").read_text())
    files = {image["id"]: COCO / "train2017" / image["file_name"] for image in found["images"]}
    rows = [
        Row(
            Where("captions", number),
            (Turn("user", (Picture(),)), Turn("assistant", (note["caption"].strip(),))),
            (ImageRef(str(note["image_id"]), path=files[note["image_id"]]),),
        )
        for number, note in enumerate(found["annotations"][:6], 1)
    ]
    losses = learn(stories.model.train(), batch_of(stories, rows), steps=8, lr=2e-3)
    assert losses[-1] < 0.8 * losses[0]
    words = stories.encoder.decode(stories.model.generate(prompts_of(stories, rows[:1]), 12)[0])
    assert words
