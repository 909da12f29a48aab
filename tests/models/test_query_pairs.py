"""BLIP-2's first stage on a composed model: what each objective reaches is what learns, and hard input ends well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.data.batch import Batch
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.build import Built, build
from sightline.models.saved import load_model
from sightline.recipe.read import validate
from sightline.recipe.schema import Stage
from sightline.train.freeze import freeze
from sightline.train.objectives import objective_of
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import pick_precision
from tests.models.connectors.former import CONFIG
from tests.train.tiny import COLOURS, RECIPE, drawn

CPU = torch.device("cpu")
SIZES = {name: CONFIG[name] for name in CONFIG if name != "vocab_size"} | {"max_position_embeddings": 16}
FORMER = {"kind": "q-former", "queries": 3, "embed": 8, "config": SIZES}
OBJECTIVES: list[Any] = [
    "next-token",
    {"itc": 1},
    {"itc": 1, "itm": 1},
    {"itg": 1},
    {"itc": 1, "itg": 1},
    {"itc": 1, "itm": 1, "itg": 1},
]


def stage_and_model(rows: list[Row], objective: Any, **changes: Any) -> tuple[Stage, Built]:
    model = {"compose": RECIPE["model"]["compose"] | {"connector": FORMER | changes}}
    stages = [RECIPE["stages"][0] | {"objective": objective, "learn": {"connector": "all"}}]
    recipe = validate(RECIPE | {"model": model, "stages": stages}, where="tiny")
    texts = [turn.text for row in rows for turn in row.turns]
    return recipe.stages[0], build(recipe.model, seed=0, texts=texts)


def batch_of(built: Built, stage: Stage, rows: list[Row]) -> Batch:
    encoder = built.encoder_for(stage)
    return encoder.collate([pack([encoder.encode(row)], "none", 64)[0] for row in rows])


def learn(built: Built, stage: Stage, batch: Batch) -> dict[str, float]:
    """One backward pass; the mean of each loss."""
    objective = objective_of(stage)
    counts = objective.counts([batch])
    factors = {name: 1 / count if count else 0.0 for name, count in counts.items()}
    ranks = Ranks(0, 1, CPU)
    sums = objective.backward(built.model, [batch], factors, pick_precision("fp32", CPU), ranks)
    return {name: float(total) / max(1.0, counts[name]) for name, total in sums.items()}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return drawn(tmp_path_factory.mktemp("images"))


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one if isinstance(one, str) else "+".join(one))
def test_idle_parameters_are_those_without_a_gradient(rows: list[Row], objective: Any) -> None:
    stage, built = stage_and_model(rows, objective)
    own = {name for name, _ in built.model.tower_parameters("connector")}
    built.model.requires_grad_(True)
    torch.manual_seed(0)
    learn(built, stage, batch_of(built, stage, rows[::2]))
    parameters = dict(built.model.named_parameters())
    reached = {name for name in own if parameters[name].grad is not None and bool(parameters[name].grad.any())}
    # A key's bias adds the same to all scores of a softmax. That its gradient is 0 is arithmetic, and blurred by it.
    keys = {name for name in own if name.endswith("attention.key.bias")}
    assert reached - keys == own - keys - built.model.idle("connector", stage.objective)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda one: one if isinstance(one, str) else "+".join(one))
def test_a_stage_freezes_what_is_idle(rows: list[Row], objective: Any) -> None:
    stage, built = stage_and_model(rows, objective)
    plan = freeze(built.model, stage)["connector"]
    learning = {name for name, p in built.model.tower_parameters("connector") if p.requires_grad}
    idle = built.model.idle("connector", stage.objective)
    assert learning == {name for name, _ in built.model.tower_parameters("connector")} - idle
    assert plan.trainable + plan.frozen == sum(p.numel() for _, p in built.model.tower_parameters("connector"))


ALL = {"itc": 1, "itm": 1, "itg": 1}


def test_a_batch_of_one_learns_to_write_and_has_nothing_to_compare(rows: list[Row]) -> None:
    stage, built = stage_and_model(rows, ALL)
    losses = learn(built, stage, batch_of(built, stage, rows[:1]))
    assert losses["itc"] == pytest.approx(0.0, abs=1e-6) and losses["itm"] == 0.0 and losses["itg"] > 0
    assert all(bool(p.grad.isfinite().all()) for p in built.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("which", ["one image for all", "one caption for all"])
def test_pairs_that_are_all_alike_give_numbers(rows: list[Row], which: str) -> None:
    stage, built = stage_and_model(rows, ALL)
    same_image = which == "one image for all"
    alike = [
        Row(row.where, rows[0].turns if not same_image else row.turns, rows[0].images if same_image else row.images)
        for row in rows[::2]
    ]
    losses = learn(built, stage, batch_of(built, stage, alike))
    assert losses["itm"] == 0.0, "there is no wrong pair"
    assert 0 < losses["itc"] < 10 and losses["itg"] > 0
    assert all(bool(p.grad.isfinite().all()) for p in built.model.parameters() if p.grad is not None)


def test_a_caption_beyond_the_limit_is_told_by_row(rows: list[Row]) -> None:
    stage, built = stage_and_model(rows, ALL, config=SIZES | {"max_position_embeddings": 4})
    with pytest.raises(UserError, match=r"rows.jsonl row 1: the caption has 7 tokens, and the text tower reads 4"):
        batch_of(built, stage, [rows[1]])


def test_a_connector_that_compares_nothing_is_told(rows: list[Row]) -> None:
    stage, _ = stage_and_model(rows, {"itc": 1})
    recipe = validate(RECIPE, where="tiny")
    plain = build(recipe.model, seed=0, texts=COLOURS)
    with pytest.raises(UserError, match="compares no image with a text"):
        plain.encoder_for(stage)


def test_features_of_another_width_are_told(rows: list[Row]) -> None:
    stage, built = stage_and_model(rows, {"itc": 1})
    batch = batch_of(built, stage, rows[:2])
    batch.features, batch.pixel_values = torch.zeros(2, 4, 17), None
    with pytest.raises(UserError, match="17 wide, and the Q-Former was built for 16"):
        built.model(batch, "pairs")


def test_saved_and_loaded_it_says_the_same(rows: list[Row], tmp_path: Path) -> None:
    stage, built = stage_and_model(rows, ALL)
    built.model.eval()
    built.model.save(tmp_path)
    again = load_model(tmp_path)
    assert again.pairs is not None and built.pairs is not None
    assert again.pairs.encode(rows[1]) == built.pairs.encode(rows[1])
    assert again.pairs.tokenizer.get_vocab() == built.pairs.tokenizer.get_vocab()
    for objective in OBJECTIVES:
        stage = stage.model_copy(update={"objective": objective})
        batch, other = batch_of(built, stage, rows[:4]), batch_of(again, stage, rows[:4])
        judge = objective_of(stage)
        torch.manual_seed(5)
        told = judge.value(built.model, batch)
        torch.manual_seed(5)
        assert told == judge.value(again.model, other)


@pytest.mark.parametrize("layers", [{}, {"place": "pre", "norm": "rmsnorm"}], ids=["transformers", "own"])
def test_one_pass_of_the_queries_serves_comparison_and_caption(rows: list[Row], layers: dict[str, Any]) -> None:
    """BLIP-2 keeps the queries' keys and values for the text; here both go through together: the same numbers."""
    stage, built = stage_and_model(rows, {"itc": 1, "itg": 1}, layers=layers)
    model: Any = built.model.double().eval()
    batch = batch_of(built, stage, rows[:6])  # two rows an image
    assert batch.pixel_values is not None
    batch.pixel_values = batch.pixel_values.double()
    looks: list[int] = []
    model.connector.body.register_forward_hook(lambda _, given, out: looks.append(out.last_hidden_state.shape[1]))
    found = []
    for heads in ((), ("itg",)):
        model.zero_grad()
        looks.clear()
        pairs = model.represent(batch, heads)
        logits, targets = model.caption(pairs.seen, batch, pairs.kept)
        loss = (pairs.image @ pairs.text.T).square().sum() + torch.nn.functional.cross_entropy(logits, targets)
        loss.backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        found.append((pairs.image.detach(), logits.detach(), gradients, sorted(looks)))
    (image, logits, gradients, apart), (also_image, also_logits, also, together) = found
    torch.testing.assert_close(also_image, image, rtol=0, atol=1e-9)
    torch.testing.assert_close(also_logits, logits, rtol=0, atol=1e-6)
    assert gradients.keys() == also.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(also[name], gradient, rtol=1e-6, atol=1e-9, msg=name)
    words, queries = batch.input_ids.shape[1], FORMER["queries"]
    assert apart == sorted([queries, words, queries + words]) and together == [words, queries + words]
