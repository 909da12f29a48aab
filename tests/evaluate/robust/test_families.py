"""Adopted models and models over pairs are attacked, too; one that cuts its images up by itself is told so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sightline.data.row import ImageRef, Row
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer
from sightline.evaluate.robust.attacks.norms import size
from sightline.evaluate.robust.attacks.pgd import pgd
from sightline.evaluate.robust.run import measure
from sightline.evaluate.robust.view import AnswerView
from sightline.evaluate.robust.view_classes import ClassView
from sightline.evaluate.robust.view_patches import PatchView, cuts_patches
from sightline.models.build import build
from sightline.recipe.read import validate
from tests.evaluate import tiny
from tests.evaluate.test_adopted import built as adopted
from tests.evaluate.test_adopted import llava, qwen
from tests.train.tiny import RECIPE

__all__ = ["adopted"]


def made(family: Any) -> Any:
    class Request:
        param = staticmethod(family)

    return adopted._get_wrapped_function()(Request())


def test_an_adopted_model(tmp_path: Path) -> None:
    built, rows = made(llava), tiny.questions(tiny.pictures(tmp_path))[:6]
    view = AnswerView(built, batch=3, max_new_tokens=3, precision="fp32")
    shown = view.show(rows)
    assert shown.pixels.shape == (6, 3, 28, 28) and torch.equal(shown.pixels, (shown.pixels * 255).round() / 255)
    target = view.target(shown, 0)
    attacked = pgd(target, 8 / 255, steps=3)
    assert (target.losses(attacked) > target.losses(shown.pixels)).all()
    assert float(size(attacked - shown.pixels, "linf").max()) <= 8 / 255 + 1e-6
    files = view.in_files(rows, shown.owner, shown.pixels)
    again = view.show(files)
    assert torch.equal(again.pixels, shown.pixels), "a picture of the tower's size passes through unchanged"
    assert view.answer(files) == view.answer_floats(rows, shown.owner, shown.pixels)
    assert view.answer(rows) == Answerer(built, batch=3, max_new_tokens=3)(rows)


def test_one_that_cuts_its_images_into_patches(tmp_path: Path) -> None:
    built = made(qwen)
    rows = tiny.questions(tiny.pictures(tmp_path))[:4]
    numbers = np.random.default_rng(0)
    for place, shape in enumerate([(60, 40, 3), (33, 90, 3)]):
        Image.fromarray(numbers.integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / f"{place}.png")
        path = tmp_path / f"{place}.png"
        rows.append(tiny.row(9 + place, "is it red ?", "no", ImageRef(str(path), path=path)))
    view = PatchView(built, batch=3, max_new_tokens=3, precision="fp32")
    assert cuts_patches(built.encoder) and not cuts_patches(made(llava).encoder)
    for row in rows:
        shown = view.show([row])
        side = built.encoder.processor.image_processor.patch_size * built.encoder.processor.image_processor.merge_size
        assert shown.pixels.shape[2] % side == shown.pixels.shape[3] % side == 0
        torch.testing.assert_close(
            view.with_pixels(shown.batch, shown.pixels).extra["pixel_values"], shown.batch.extra["pixel_values"],
            atol=1e-5, rtol=0,
        )  # fmt: skip
        again = view.show(view.in_files([row], shown.owner, shown.pixels))
        assert torch.equal(again.pixels, shown.pixels), "a picture of the tower's size passes through unchanged"
        assert view.answer_floats([row], shown.owner, shown.pixels) == view.answer([row])
        target = view.target(shown, 0)
        attacked = pgd(target, 8 / 255, steps=3)
        assert (target.losses(attacked) > target.losses(shown.pixels)).all()
    robust = {"attacks": [], "corruptions": ["fog"], "severities": [3], "contradiction": []}
    found = measure(tiny.recipe(robust=robust | {"words": ["typos"]}), built, rows[-2:], tmp_path)
    assert set(found["corruptions"]["table"]) == {"fog"} and found["words"]["typos"] and found["attacks"] == []


def test_one_that_makes_more_of_its_images_is_told_so(tmp_path: Path) -> None:
    built, rows = made(qwen), tiny.questions(tiny.pictures(tmp_path))[:2]
    with pytest.raises(UserError, match="no picture to attack"):
        AnswerView(built, batch=3, max_new_tokens=3, precision="fp32").show(rows)
    view = PatchView(built, batch=3, max_new_tokens=3, precision="fp32")
    processor = built.encoder.processor.image_processor
    real = processor.preprocess
    processor.preprocess = lambda *args, **options: sharpened(real(*args, **options))
    with pytest.raises(UserError, match="no picture to attack"):
        view.show(rows[:1])


def sharpened(made: Any) -> Any:
    """Each value less the one beside it: no selection of pixels."""
    beside = np.roll(np.asarray(made["pixel_values"]), 1, 1)
    told = isinstance(made["pixel_values"], torch.Tensor)
    made["pixel_values"] = made["pixel_values"] - 0.3 * (torch.from_numpy(beside) if told else beside)
    return made


def classes(rows: list[Row], **evaluate: Any) -> Any:
    content = RECIPE | {
        "model": {
            "pair": {
                "vision": RECIPE["model"]["compose"]["vision"],
                "language": {
                    "config": {"model_type": "clip_text_model", "hidden_size": 16, "intermediate_size": 32,
                               "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32},
                },
                "tokenizer": {"build": "words"}, "embed": 16, "pool": "mean",
            }
        },
        "stages": [RECIPE["stages"][0] | {"objective": {"itc": 1}}],
        "evaluate": {"data": "test", "metric": "zero-shot", "templates": ["a {} picture"], **evaluate},
    }  # fmt: skip
    recipe = validate(content, "pairs")
    texts = [turn.text for row in rows for turn in row.turns] + ["a picture"]
    return recipe, build(recipe.model, seed=0, texts=texts)


def test_a_model_over_pairs_by_its_classes(tmp_path: Path) -> None:
    rows = [row for row in tiny.questions(tiny.pictures(tmp_path)) if row.answer not in ("yes", "no")]
    robust = {
        "attacks": [{"kind": "pgd", "epsilon": ["8/255", "64/255"], "steps": 4}], "corruptions": ["jpeg"],
        "severities": [5], "batch": 4,
    }  # fmt: skip
    recipe, built = classes(rows, robust=robust)
    for parameter in built.model.vision.parameters():
        parameter.requires_grad_(False)  # as a frozen tower is left behind by its last stage
    view = ClassView(built, recipe.evaluate, rows, batch=4, precision="fp32")
    shown = view.show(rows)
    target = view.target(shown, 0)
    attacked = pgd(target, 16 / 255, steps=3)
    assert (target.losses(attacked) > target.losses(shown.pixels)).all()
    assert view.answer_floats(rows, shown.owner, shown.pixels) == view.answer(rows)
    found = measure(recipe, built, rows, tmp_path)
    assert found["metric"] == "zero-shot" and found["words"] == {} and set(found["contradiction"]) == {"printed"}
    assert all(point["loss"] > point["clean_loss"] for point in found["attacks"][0]["points"])
