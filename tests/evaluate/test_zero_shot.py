"""Zero-shot classes: what transformers' CLIP says of the same images and prompts, plain loops, and the right errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel
from typer.testing import CliRunner

from sightline.cli import app
from sightline.data.dataset import read_rows
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.retrieval import nearness
from sightline.evaluate.run import evaluate
from sightline.evaluate.zero_shot import embed_images, embed_prompts
from sightline.models.build import Built, build
from sightline.models.saved import load_model
from sightline.models.tokenizer import word_tokenizer
from sightline.recipe.read import validate
from sightline.recipe.schema import DataSpec, ModelSpec, Recipe
from sightline.report.page import render
from sightline.report.read import read_run
from sightline.train.run import train
from tests.evaluate.test_pairs import recipe_of
from tests.models.conftest import row
from tests.models.test_query_pairs import batch_of, stage_and_model
from tests.train.tiny import COLOURS, RECIPE, drawn

CLASSES = ("red square", "two green circles", "dog")
TEMPLATES = ("a {}", "nothing but a {} on blue", "{}")


@pytest.fixture
def theirs(tmp_path: Path) -> CLIPModel:
    """A CLIP of random weights, saved with its tokenizer to `tmp_path`."""
    torch.manual_seed(3)
    tokenizer = word_tokenizer([template.format(name) for template in TEMPLATES for name in CLASSES], None)
    tokenizer.add_special_tokens({"eos_token": "<end>"})
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3}
    text = {"hidden_size": 16, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = {"vocab_size": 40, "max_position_embeddings": 12, "bos_token_id": 1, "pad_token_id": 0}
    words["eos_token_id"] = tokenizer.eos_token_id
    sizes = {"vision_config": vision | {"image_size": 16, "patch_size": 8}, "text_config": text | words}
    model = CLIPModel(CLIPConfig(**sizes, projection_dim=20))
    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    model.eval().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return model


def clip_from(folder: Path) -> Built:
    pair = {
        "vision": {"source": str(folder), "layer": -1},
        "language": {"source": str(folder), "max_length": 12},
        "embed": 20,
    }
    built = build(ModelSpec.model_validate({"pair": pair}), seed=0)
    built.model.eval()
    return built


def test_classes_are_those_of_transformers_clip(theirs: CLIPModel, tmp_path: Path) -> None:
    """One prompt and one image at a time there, averaged as CLIP's notebook does; all together here, and saved."""
    built = clip_from(tmp_path)
    assert built.pairs is not None
    rows = [row(number, "", name, image=number) for number, name in enumerate(CLASSES * 2)]
    expected = []
    with torch.no_grad():
        weights = []
        for name in CLASSES:
            prompts = []
            for template in TEMPLATES:
                ids = torch.tensor([built.pairs.encode_text(template.format(name))])
                pooled = theirs.text_model(input_ids=ids).pooler_output
                prompts.append(F.normalize(theirs.text_projection(pooled), dim=-1)[0])
            weights.append(F.normalize(torch.stack(prompts).mean(0), dim=-1))
        for one in rows:
            pixels = _pixels(built, one)
            image = theirs.visual_projection(theirs.vision_model(pixel_values=pixels).pooler_output)
            expected.append(F.normalize(image, dim=-1)[0] @ torch.stack(weights).T)
    built.model.save(tmp_path / "saved")
    for one in (built, load_model(tmp_path / "saved")):
        prompts = embed_prompts(one, CLASSES, TEMPLATES, batch=4)
        found = nearness(embed_images(one, rows, 4, lambda more: None), prompts)
        torch.testing.assert_close(found, torch.stack(expected), atol=1e-6, rtol=0)
    single = nearness(embed_images(built, rows, 4, lambda more: None), prompts[:, :1])
    assert not torch.allclose(single, found, atol=1e-3), "the other templates say something"


def _pixels(built: Built, one: Row) -> torch.Tensor:
    from sightline.data.pack import pack

    assert built.pairs is not None
    pixels = built.pairs.collate(pack([built.pairs.encode(one)], "none", 12)).pixel_values
    assert pixels is not None
    return pixels


def coloured(folder: Path) -> list[Row]:
    """Six pictures, each called by its colour in two rows that say the same."""
    return [one for one in drawn(folder) if one.answer in COLOURS] * 2


def asked(**changes: Any) -> Recipe:
    return recipe_of(**({"metric": "zero-shot", "templates": ["it is {}", "a {} field"], "batch": 4} | changes))


def test_what_is_written_is_what_loops_say(tmp_path: Path) -> None:
    rows = coloured(tmp_path)
    built = build(asked().model, seed=1, texts=["it is a field", *COLOURS])
    found = evaluate(asked(), built, rows, [], tmp_path)
    near = nearness(
        embed_images(built, rows[:6], 1, lambda more: None),
        embed_prompts(built, sorted(COLOURS), ("it is {}", "a {} field"), 1),
    )
    said = [sorted(COLOURS)[int(scores.argmax())] for scores in near]
    marks = [name == one.answer for name, one in zip(said, rows, strict=False)]
    assert found["questions"] == 6 and found["accuracy"] == sum(marks) / 6
    assert found["chance"] == pytest.approx(1 / 6) and found["first_5"]["chance"] == pytest.approx(5 / 6)
    ranked = [sorted(COLOURS, key=lambda name: -scores[sorted(COLOURS).index(name)]) for scores in near]
    among = [one.answer in names[:5] for names, one in zip(ranked, rows, strict=False)]
    assert found["first_5"]["accuracy"] == sum(among) / 6
    for truth, counts in found["confusion"].items():
        expected = [name for name, one in zip(said, rows, strict=False) if one.answer == truth]
        assert counts == {name: expected.count(name) for name in expected}
    told = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [(line["answer"], line["truth"], line["correct"]) for line in told] == [
        (name, one.answer, mark) for name, one, mark in zip(said, rows, marks, strict=False)
    ]
    partial = evaluate(asked(), built, rows, [], tmp_path, limit=3)
    assert partial["partial"] is True and partial["questions"] == 3


def test_classes_may_be_named_otherwise_and_be_more_than_the_rows_have(tmp_path: Path) -> None:
    rows = coloured(tmp_path)[:6]
    built = build(asked().model, seed=1, texts=["it is a field pink", *COLOURS])
    renamed = dict.fromkeys([*COLOURS, "pink"], "field") | {"red": "pink"}
    found = evaluate(asked(classes=renamed), built, rows, [], tmp_path)
    assert len(found["classes"]) == 7 and found["classes"]["red"] == "pink"
    assert found["chance"] == pytest.approx(1 / 7)


def test_what_cannot_be_classified(tmp_path: Path) -> None:
    rows = coloured(tmp_path)[:6]
    built = build(asked().model, seed=1, texts=["it is a field", *COLOURS])
    with pytest.raises(UserError, match="'red' is none of the 2 classes"):
        evaluate(asked(classes=["blue", "green"]), built, rows, [], tmp_path)
    with pytest.raises(UserError, match="there are 1 classes to choose from"):
        evaluate(asked(), built, rows[:1], [], tmp_path)
    with pytest.raises(UserError, match="has no rows"):
        evaluate(asked(), built, [], [], tmp_path)
    with pytest.raises(UserError, match=r"does not hold one \{\}"):
        asked(templates=["a photo"])
    with pytest.raises(UserError, match="'templates' is read by metric zero-shot alone"):
        asked(metric="retrieval")
    with pytest.raises(UserError, match="more than the text tower's 8"):
        evaluate(asked(templates=["it is {} " + "field " * 9]), built, rows, [], tmp_path)


def test_a_q_former_counts_by_its_best_query(tmp_path: Path) -> None:
    rows = coloured(tmp_path)[:6]
    stage, built = stage_and_model(rows, {"itc": 1})
    recipe = asked(templates=["{}"])
    found = evaluate(recipe, built, rows, [], tmp_path)
    assert built.pairs is not None
    model: Any = built.model.eval()
    said = []
    with torch.no_grad():
        texts = [torch.tensor([built.pairs.encode_text(name)]) for name in sorted(COLOURS)]
        words = [model.embed_texts(ids, torch.ones_like(ids, dtype=torch.bool))[0] for ids in texts]
        for one in rows:
            image = model.represent(batch_of(built, stage, [one])).image[0]  # one row a query
            scores = [max(float(query @ word) for query in image) for word in words]
            said.append(sorted(COLOURS)[scores.index(max(scores))])
    assert found["accuracy"] == sum(name == one.answer for name, one in zip(said, rows, strict=True)) / 6
    told = [json.loads(line)["answer"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert told == said


def test_easy_vqas_shapes_are_classes() -> None:
    pytest.importorskip("easy_vqa")
    spec = DataSpec(reader="easy-vqa", split="test[:40]", where={"type": ["shape"]})
    rows = read_rows(spec, "shapes").rows
    assert {one.answer for one in rows} == {"circle", "rectangle", "triangle"} and all(one.images for one in rows)


@pytest.mark.slow
def test_a_trained_run_is_asked_for_classes_and_its_page_shows_them(tmp_path: Path) -> None:
    """From the recipe's retrieval to classes by a word on the command line."""
    drawn(tmp_path)
    lines = [{"image": f"{c}.png", "question": "", "answer": c} for c in COLOURS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = recipe_of().model.model_dump(mode="json")
    data = {"test": {"reader": "table", "path": str(tmp_path / "rows.jsonl")}}
    stage = RECIPE["stages"][0] | {"data": {"test": 1}, "objective": {"itc": 1}, "lr": 1e-2, "steps": 40, "batch": 6}
    content = RECIPE | {"model": model, "data": data, "stages": [stage], "guard": {"on": False}}
    run = train(
        validate(content | {"evaluate": {"data": "test", "metric": "retrieval"}}, where="tiny"), tmp_path / "run"
    )
    done = CliRunner().invoke(app, ["eval", str(run), "evaluate.metric=zero-shot", 'evaluate.templates=["{}"]'])
    assert done.exit_code == 0, done.output
    seen = json.loads((run / "evaluation.json").read_text())
    assert seen["metric"] == "zero-shot" and seen["accuracy"] == 1.0
    assert seen["baselines"]["shuffled_images"]["accuracy"] == 0.0
    assert "zero-shot: 100.0 % of 6 images of test in the right one of 6 classes" in done.output
    page = render(read_run(run))
    assert "put in the right class" in page and "By lot" in page
    refused = CliRunner().invoke(app, ["eval", str(run), "seed=3"])
    assert refused.exit_code == 2 and "trained already" in refused.output
