"""All switches of cross-attention stability in one run: it learns, it is resumed to the last bit, its parts meet."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.errors import UserError
from sightline.models.build import Built, build
from sightline.models.saved import load_run
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe
from sightline.train.freeze import freeze
from sightline.train.interrupt import Interrupted
from sightline.train.run import resume, train
from tests.train.test_blip2 import FORMER, chain, stopping, weights
from tests.train.tiny import RECIPE, recipe, stage

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "stability.py"
LAYERS = {"place": "pre", "norm": "rmsnorm", "qk_norm": True, "attention_dropout": 0.2, "path_dropout": 0.2}
BOTH = {"schedule": {"kind": "constant", "warmup": 1, "layers": {"steps": 1}}, "dropout_warmup": 3}


def switched(folder: Path) -> Recipe:
    """BLIP-2's two stages with every switch set, clipped tower by tower in one and unit by unit in the other."""
    told = chain(folder).model_dump(mode="json")
    told["model"]["compose"]["connector"] |= {"layers": LAYERS, "start": {"weights": "xavier", "queries": 0.1}}
    first, second = told["stages"]
    told["stages"] = [
        first | BOTH | {"optimizer": {"clip": {"connector": 0.5}}},
        second | BOTH | {"optimizer": {"clip": {"adaptive": 0.02}}},
    ]
    return validate(told | {"evaluate": {}, "evaluate_after": {}}, where="switched")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("whole")
    return switched(folder), train(switched(folder), folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps", [2, pytest.param(6, marks=pytest.mark.slow)], ids=["while dropout rises", "within stage 2"]
)
def test_resumed_it_is_bit_identical(whole: tuple[Recipe, Path], tmp_path: Path, steps: int) -> None:
    content, run = whole
    with pytest.raises(Interrupted):
        train(content, tmp_path / "again", listen=stopping(steps))
    expected, found = weights(run), weights(resume(tmp_path / "again"))
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.slow
def test_it_says_what_was_clipped_and_loads_again(whole: tuple[Recipe, Path]) -> None:
    events = [json.loads(line) for line in (whole[1] / "metrics.jsonl").read_text().splitlines()]
    steps = [event for event in events if event["event"] == "train"]
    assert [set(step["grad_norm"]) for step in steps] == [{"connector"}] * 4 + [{"connector", "language"}] * 4
    for step in steps:
        total = sum(norm**2 for norm in step["grad_norm"].values()) ** 0.5
        assert step["grad_norm_total"] == pytest.approx(total, rel=1e-5)
    built = load_run(whole[1])
    names = {name for name, _ in built.model.named_parameters()}
    assert {
        "connector.body.final_norm.weight",
        "connector.body.encoder.layer.0.attention.attention.head_norm.key_norm.weight",
    } <= names


def with_former(told: dict[str, Any]) -> Built:
    compose = RECIPE["model"]["compose"] | {"connector": FORMER | told}
    return build(recipe(model={"compose": compose}).model, seed=0, texts=["it is red"])


@pytest.mark.parametrize("objective", ["next-token", {"itc": 1, "itm": 1, "itg": 1}, {"itg": 1}])
def test_what_an_objective_reaches_is_the_same_with_norms_before(objective: Any) -> None:
    """The house's layers have transformers' names, and the last norm learns in every stage."""
    spec = stage(learn={"connector": "all"}, objective=objective).stages[0]
    learning = []
    for layers in ({}, {"place": "pre"}):
        model = with_former({"layers": layers}).model
        freeze(model, spec)
        learning.append({name for name, p in model.named_parameters() if p.requires_grad})
    last = {"connector.body.final_norm.weight", "connector.body.final_norm.bias"}
    assert learning[1] - learning[0] == last and learning[0] <= learning[1]


def test_dropout_that_is_not_there_cannot_rise(tmp_path: Path) -> None:
    told = switched(tmp_path).model_dump(mode="json")
    told["model"]["compose"]["connector"] = {"kind": "mlp"}
    told["stages"] = [told["stages"][1] | {"schedule": {}, "optimizer": {}, "dropout_warmup": 2}]
    with pytest.raises(UserError, match="this connector drops nothing"):
        train(validate(told, where="mlp"), tmp_path / "run")


@pytest.mark.slow
def test_the_guard_names_a_layer_of_a_q_former_that_fails_and_is_silent_on_its_twin(tmp_path: Path) -> None:
    """The benchmark's failing set-up, and the same with norms before the branches."""
    found = importlib.util.spec_from_file_location("stability", BENCHMARK)
    assert found is not None and found.loader is not None
    stability = importlib.util.module_from_spec(found)
    sys.modules["stability"] = stability  # dataclasses look for their module there
    found.loader.exec_module(stability)
    failing, twin = (stability.run(arm, 3, tmp_path) for arm in (stability.BASELINE, "pre-LN"))
    guess = stability.guessing()
    assert twin.final < 0.7 * guess < stability.DIVERGED * guess <= failing.final
    assert [line["code"] for line in failing.findings] == ["P6"] and not twin.findings
    assert "vanish, most of all connector.body." in failing.findings[0]["message"]
