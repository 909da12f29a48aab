"""The optimizer's groups say what the recipe says, and the rates in them are those that act."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.build import Built, build
from sightline.recipe.schema import Schedule
from sightline.train.freeze import freeze
from sightline.train.groups import build_optimizer, rates, set_rates
from sightline.train.schedule import factor
from tests.models.test_query_pairs import SIZES
from tests.train.tiny import RECIPE, recipe, stage


def group_of(built: Built, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The group of each parameter by its name."""
    names = {id(p): name for name, p in built.model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


def made(built: Built, **optimizer: Any) -> torch.optim.Optimizer:
    spec = stage(lr=1.0, optimizer=optimizer).stages[0]
    freeze(built.model, spec)
    return build_optimizer(built.model, spec)


def test_layer_decay_is_in_the_groups_after_ten_steps(built: Built) -> None:
    """LAVIS sets it in the groups, and its scheduler then writes one rate into all of them; ours must outlive it."""
    optimizer = made(built, layer_decay=0.5)
    schedule = stage(schedule={"kind": "cosine", "warmup": 2}).stages[0].schedule
    for step in range(10):
        set_rates(optimizer, factor(schedule, step, 20))
    now, found = factor(schedule, 9, 20), group_of(built, optimizer)
    top = {name: group["lr"] / now for name, group in found.items()}
    language = "language.model."
    assert top["language.lm_head.weight"] == pytest.approx(1.0)
    assert top[f"{language}norm.weight"] == pytest.approx(1.0)
    assert top[f"{language}layers.1.mlp.up_proj.weight"] == pytest.approx(0.5)
    assert top[f"{language}layers.0.mlp.up_proj.weight"] == pytest.approx(0.25)
    assert top[f"{language}embed_tokens.weight"] == pytest.approx(0.125)
    vision = [name for name in top if "position_embedding" in name]
    assert vision and all(top[name] == pytest.approx(0.125) for name in vision)
    assert all(top[name] == 1.0 for name in top if name.startswith("connector"))  # it has no blocks
    assert rates(optimizer)["language"] == pytest.approx(now)


def test_layer_decay_moves_lower_blocks_less(built: Built) -> None:
    """Under Adam's first step every weight moves by its rate: the move is the rate that acted."""
    optimizer = made(built, layer_decay=0.5)
    before = {name: p.detach().clone() for name, p in built.model.named_parameters()}
    for parameter in built.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    set_rates(optimizer, 1e-3)
    optimizer.step()
    moved = {name: float((p.detach() - before[name]).abs().mean()) for name, p in built.model.named_parameters()}
    blocks = [moved[f"language.model.layers.{number}.mlp.up_proj.weight"] for number in (0, 1)]
    assert blocks[1] / blocks[0] == pytest.approx(2.0, rel=1e-3)


def test_without_it_all_blocks_have_one_rate(built: Built) -> None:
    optimizer = made(built)
    assert {group["lr"] for group in optimizer.param_groups} == {1.0}
    assert len(optimizer.param_groups) == 6  # three towers, decayed or not


def test_decay_by_tower_and_by_name(built: Built) -> None:
    optimizer = made(built, weight_decay={"language": 0.1}, no_decay="embed_tokens")
    found = group_of(built, optimizer)
    for name, group in found.items():
        one_dimensional = dict(built.model.named_parameters())[name].ndim <= 1
        spared = one_dimensional or not name.startswith("language") or "embed_tokens" in name
        assert group["weight_decay"] == (0.0 if spared else 0.1), name


def test_a_pattern_that_spares_nothing(built: Built) -> None:
    with pytest.raises(UserError, match="no_decay"):
        made(built, no_decay="no_such_parameter")


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lamb_is_algorithm_2(built: Built, weight_decay: float) -> None:
    """You et al. 2020: Adam's direction with decay, scaled to the weight's norm. Written out in fp64, three steps."""
    pytest.importorskip("pytorch_optimizer")
    optimizer = made(built, kind="lamb", betas=[0.9, 0.99], eps=1e-6, weight_decay=weight_decay)
    name = "language.model.layers.0.mlp.up_proj.weight"
    parameter = dict(built.model.named_parameters())[name]
    x, m, v = parameter.detach().double(), torch.zeros(()).double(), torch.zeros(()).double()
    generator = torch.Generator().manual_seed(0)
    set_rates(optimizer, 0.01)
    for _ in range(3):
        grad = torch.randn(parameter.shape, generator=generator)
        parameter.grad = grad.clone()
        optimizer.step()
        m, v = 0.9 * m + 0.1 * grad.double(), 0.99 * v + 0.01 * grad.double() ** 2
        direction = m / (v.sqrt() + 1e-6) + weight_decay * x
        x = x - 0.01 * x.norm() / direction.norm() * direction
    torch.testing.assert_close(parameter.detach().double(), x, atol=1e-5, rtol=1e-4)


def test_lion_is_algorithm_2(built: Built) -> None:
    """Chen et al. 2023: the sign of an interpolation, decoupled decay."""
    pytest.importorskip("pytorch_optimizer")
    optimizer = made(built, kind="lion", betas=[0.9, 0.99], weight_decay=0.1)
    name = "language.model.layers.0.mlp.up_proj.weight"
    parameter = dict(built.model.named_parameters())[name]
    x, m = parameter.detach().double(), torch.zeros(()).double()
    generator = torch.Generator().manual_seed(0)
    set_rates(optimizer, 1e-3)
    for _ in range(3):
        grad = torch.randn(parameter.shape, generator=generator)
        parameter.grad = grad.clone()
        optimizer.step()
        x = x - 1e-3 * ((0.9 * m + 0.1 * grad.double()).sign() + 0.1 * x)
        m = 0.99 * m + 0.01 * grad.double()
    torch.testing.assert_close(parameter.detach().double(), x, atol=1e-6, rtol=1e-5)


FORMER = {"kind": "q-former", "queries": 2, "embed": 8, "config": SIZES | {"num_hidden_layers": 2}}


@pytest.fixture
def with_former(rows: list[Row]) -> Built:
    """The tiny model with a Q-Former of two layers, whose word embeddings are registered behind them."""
    compose = RECIPE["model"]["compose"] | {"connector": FORMER}
    texts = [turn.text for row in rows for turn in row.turns]
    return build(recipe(model={"compose": compose}).model, seed=0, texts=texts)


def layered(built: Built, **changes: Any) -> torch.optim.Optimizer:
    spec = stage(lr=1.0, objective={"itc": 1, "itm": 1, "itg": 1}, learn=LEARN, **changes).stages[0]
    freeze(built.model, spec)
    return build_optimizer(built.model, spec)


LEARN = {"vision": "all", "connector": "all"}
HEIGHTS = {  # below the first layer, in it, in the second, above
    "connector.words.word_embeddings.weight": 0,
    "connector.queries": 0,
    "connector.body.layernorm.weight": 0,
    "connector.body.encoder.layer.0.attention.attention.query.weight": 1,
    "connector.body.encoder.layer.1.output_query.dense.weight": 2,
    "connector.matcher.weight": 3,
}


@pytest.mark.parametrize("first", ["top", "bottom"])
def test_layers_warm_up_one_by_one_over_the_steps(with_former: Built, first: str) -> None:
    """Read from the optimizer's groups after each step's rates were set."""
    schedule = Schedule(kind="constant", warmup=2, layers={"steps": 3, "first": first})  # type: ignore[arg-type]
    optimizer = layered(with_former, schedule=schedule.model_dump())
    group = group_of(with_former, optimizer)
    for step in range(14):
        set_rates(optimizer, partial(factor, schedule, step, 20))
        for name, height in HEIGHTS.items():
            later = 3 - height if first == "top" else height
            assert group[name]["lr"] == pytest.approx(min(1.0, (step + 1) / (2 + 3 * later))), (step, name)
    assert {each["lr"] for each in optimizer.param_groups} == {1.0}


def test_a_q_former_has_layers_to_decay(with_former: Built) -> None:
    optimizer = layered(with_former, optimizer={"layer_decay": 0.5})
    found = group_of(with_former, optimizer)
    for name, height in HEIGHTS.items():
        assert found[name]["lr"] == 0.5 ** (3 - height), name


def test_nothing_to_warm_up_one_by_one(built: Built) -> None:
    spec = stage(learn={"connector": "all"}, schedule={"layers": {"steps": 3}}).stages[0]
    freeze(built.model, spec)
    with pytest.raises(UserError, match="no tower that learns has layers"):
        build_optimizer(built.model, spec)
