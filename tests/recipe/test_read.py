"""Reading recipes: what is given is what is got, and every fault is told with its key."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.errors import UserError
from sightline.recipe import load, shipped, to_yaml
from sightline.recipe.read import validate
from sightline.recipe.yaml_file import parse

TEXT = """
name: tiny
summary: two towers
model:
  compose:
    vision: {config: {model_type: siglip_vision_model, layer_norm_eps: 1e-6}}
    language: {config: {model_type: llama}}
data:
  train: {reader: easy-vqa}
stages:
  - {name: see, data: {train: 1}, learn: {vision: all, language: {last: 2}}, lr: 1e-3, epochs: 2, batch: 32}
  - {name: instruct, data: {train: 1}, learn: {connector: all}, lr: 1e-3, epochs: 2, batch: 32}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return path


def test_written_back_it_is_the_same_recipe(file: Path) -> None:
    recipe = load(str(file), ["seed=3"])
    assert validate(parse(to_yaml(recipe), "again"), "again") == recipe
    assert recipe.seed == 3


def test_exponents_without_a_dot_are_numbers(file: Path) -> None:
    compose = load(str(file)).model.compose
    assert compose is not None and compose.vision.config is not None
    assert compose.vision.config["layer_norm_eps"] == 1e-6


def test_steps_take_the_place_of_epochs(file: Path) -> None:
    stage = load(str(file), ["stages.instruct.steps=50"]).stages[1]
    assert (stage.steps, stage.epochs) == (50, None)


def test_a_stage_goes_by_name_or_position(file: Path) -> None:
    assert (
        load(str(file), ["stages.see.batch=8"]).stages[0].batch == load(str(file), ["stages.0.batch=8"]).stages[0].batch
    )


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.instruct.stepz=50", "stages.instruct.stepz: unknown key; did you mean 'steps'?"),
        ("sed=1", "sed: unknown key; did you mean 'seed'?"),
        ("seed=abc", "seed: Input should be a valid integer"),
        ("stages.instuct.steps=1", "did you mean 'instruct'?"),
        ("stages.see.batch=0", "stages.see.batch: Input should be greater than 0 (got 0)"),
        ("stages.see.learn.vision=nune", "stages.see.learn.vision: Input should be 'all', 'none' or 'lora'"),
        ("stages.see.learn.language.last=0", "greater than 0"),
        ("stages.instruct.learn={connector: none}", "this stage trains nothing"),
        ("stages.instruct.learn={}", "this stage trains nothing"),
        ("stages.instruct.lr={vision: 1}", "'lr' names no rate for connector"),
        ("stages.instruct.data={other: 1}", "no data set is called other (known: train)"),
        ("stages.instruct.name=see", "two stages share a name"),
        ("stages.instruct.learn.language=lora", "no 'model.lora'"),
        ("stages.see.cache_features=true", "needs a frozen vision tower"),
        ("stages.see.early_stop={patience: 2}", "needs 'validate_every'"),
        (
            "stages.see.optimizer.clip={visoin: 1}",
            "stages.see.optimizer.clip: give a number above 0 (norm of all gradi",
        ),
        ("stages.see.optimizer.clip=0", "got 0"),
        ("stages.see.optimizer.clip={adaptive: 0.01, vision: 1}", "{adaptive: number} (unit by unit)"),
        (
            "stages.see.optimizer.clip={vision: 1}",
            "must name the towers that learn (vision, language), and names vision",
        ),
        ("stages.see.dropout_warmup=10", "the connector does not learn"),
        ("model.compose.connector.layers={path_dropout: 1.0}", "less than 1"),
        ("model.compose.connector.layers={place: both}", "Input should be 'pre' or 'post'"),
        ("model.compose=null", "exactly one of 'compose'"),
        ("model.compose.language.config={hidden_size: 8}", "needs 'model_type'"),
        ("seed", "is not an override"),
        ("name.x.y=1", "single value"),
        ("seed=[1", "not readable as YAML"),
    ],
)
def test_a_bad_override_is_told_with_its_key(file: Path, override: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        load(str(file), [override])
    assert told in str(error.value)


def test_on_and_yes_are_words(file: Path) -> None:
    text = file.read_text().replace("data:\n", "guard: {on: false}\ndata:\n", 1)
    file.write_text(text)
    recipe = load(str(file), ["data.train.where={answer: [yes, no], shape: [on]}"])
    assert recipe.guard.on is False
    assert recipe.data["train"].where == {"answer": ["yes", "no"], "shape": ["on"]}
    assert load(str(file), ["guard.on=yes"]).guard.on is True


def test_a_duplicate_key_is_an_error(file: Path) -> None:
    file.write_text(TEXT + "name: twice\n")
    with pytest.raises(UserError, match="'name' stands twice"):
        load(str(file))


def test_an_unknown_recipe_gets_the_nearest_name() -> None:
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        load("quikstart")


def test_a_missing_file_and_a_wrong_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such recipe file"):
        load(str(tmp_path / "none.yaml"))
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="a mapping"):
        load(str(tmp_path / "list.yaml"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="not a text file"):
        load(str(tmp_path / "binary.yaml"))


def test_paths_that_exist_become_absolute(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    spec = load(str(file), ["data.train.path=rows.json"]).data["train"]
    assert spec.path == str(tmp_path / "rows.json")
    assert load(str(file), ["data.train.path=org/name"]).data["train"].path == "org/name"


def test_every_shipped_recipe_has_a_summary_and_its_file_name() -> None:
    assert "quickstart" in shipped()
    for name, summary in shipped().items():
        assert summary
        assert load(name).name == name
