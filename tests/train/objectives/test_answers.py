"""Choosing answers by a head: what is computed, what learns, and that micro-batches and packing change nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from sightline.data.batch import Batch
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.losses.answers import choice
from sightline.models.build import Built, build, build_meta
from sightline.plan.memory import state_bytes
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe
from sightline.train.checkpoint import WHOLE
from sightline.train.freeze import freeze
from sightline.train.groups import build_optimizer, parameters_by_tower, rates, set_rates
from sightline.train.measure import UpdateRatio
from sightline.train.objectives import Answers
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import pick_precision
from sightline.train.step import train_step
from tests.train.tiny import RECIPE

CPU = Ranks(0, 1, torch.device("cpu"))
ALL = {"vision": "all", "connector": "all", "language": "all", "head": "all"}
T5: dict[str, Any] = {
    "model_type": "t5",
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 2,
    "dropout_rate": 0.0,
    "tie_word_embeddings": False,
}


def headed(stage: dict[str, Any] | None = None, **compose: Any) -> Recipe:
    made = copy.deepcopy(RECIPE)
    made["model"]["compose"] |= {"head": {"min_count": 1, "dropout": 0.0}} | compose
    made["stages"][0] |= {"objective": "answers", "learn": ALL} | (stage or {})
    return validate(made, where="headed")


def made_of(recipe: Recipe, rows: list[Row], dtype: torch.dtype = torch.float64) -> Built:
    texts = [turn.text for row in rows for turn in row.turns]
    return build(recipe.model, seed=0, texts=texts, answered=rows, dtype=dtype)


def batch_of(built: Built, rows: list[Row], mode: Any = "none") -> Batch:
    assert built.answers is not None
    return built.answers.collate(pack([built.answers.encode(row) for row in rows], mode, 64))


def logits(built: Built, batch: Batch) -> torch.Tensor:
    with torch.no_grad(), built.model.evaluating():
        found: torch.Tensor = built.model(batch, "answers")
    return found


def gradients(built: Built, recipe: Recipe, batches: list[Batch]) -> dict[str, torch.Tensor]:
    freeze(built.model, recipe.stages[0])
    built.model.zero_grad()
    optimizer = build_optimizer(built.model, recipe.stages[0])
    set_rates(optimizer, 0.0)
    built.model.train()
    train_step(built.model, batches, optimizer, pick_precision("fp32", CPU.device), WHOLE, None, objective=Answers())
    return {name: p.grad.clone() for name, p in built.model.named_parameters() if p.grad is not None}


def test_packed_or_not_and_alone_or_not_the_logits_are_the_same(rows: list[Row]) -> None:
    built = made_of(headed(), rows)
    expected = torch.cat([logits(built, batch_of(built, [row])) for row in rows])
    assert len({tuple(line) for line in expected.round(decimals=6).tolist()}) > 6
    for mode in ("none", "image", "length"):
        torch.testing.assert_close(logits(built, batch_of(built, rows, mode)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("connector", ["mlp", "gated-cross-attention", "q-former"])
@pytest.mark.parametrize("language", [{}, {"language": {"config": T5}}], ids=["decoder", "encoder-decoder"])
def test_other_connectors_and_towers_choose_too(rows: list[Row], connector: str, language: dict[str, Any]) -> None:
    if connector == "gated-cross-attention" and language:
        pytest.skip("goes into a decoder's blocks")
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = {"q-former": shape, "mlp": None, "gated-cross-attention": {"depth": 1, "heads": 2, "head_width": 8}}
    parts = {"connector": {"kind": connector, "config": config[connector]}} | language
    built = made_of(headed(**parts), rows, torch.float32)
    expected = torch.cat([logits(built, batch_of(built, [row])) for row in rows[:5]])
    torch.testing.assert_close(logits(built, batch_of(built, rows[:5])), expected, rtol=1e-4, atol=1e-5)
    reached = gradients(built, headed(**parts), [batch_of(built, rows[:5])]).keys()
    assert reached == {name for name, p in built.model.named_parameters() if p.requires_grad}


def test_micro_batches_have_the_gradient_of_one_batch_and_the_loss_is_a_mean_over_rows(rows: list[Row]) -> None:
    recipe = headed()
    built = made_of(recipe, rows)
    whole = gradients(built, recipe, [batch_of(built, rows)])
    parts = gradients(built, recipe, [batch_of(built, rows[:7]), batch_of(built, rows[7:8]), batch_of(built, rows[8:])])
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-7, msg=name)
    batch = batch_of(built, rows)
    assert batch.answers is not None
    total, count = choice(built.model(batch, "answers"), batch.answers)
    built.model.zero_grad()
    (total / count).backward()
    assert count == len(rows)
    for name, parameter in built.model.named_parameters():
        if name in whole:
            torch.testing.assert_close(parameter.grad, whole[name], rtol=1e-4, atol=1e-7, msg=name)


def test_no_words_are_scored_and_an_image_is_encoded_once(rows: list[Row]) -> None:
    built = made_of(headed(), rows)
    words, images = [], []
    head = built.model.language.get_output_embeddings()  # type: ignore[operator, union-attr]
    head.register_forward_hook(lambda *_: words.append(1))
    built.model.vision.register_forward_hook(lambda *call: images.append(len(call[1][0])))  # type: ignore[union-attr]
    logits(built, batch_of(built, rows))
    assert words == [] and images == [6]  # twelve questions about six images


def test_each_objective_trains_what_it_reaches(rows: list[Row]) -> None:
    recipe = headed()
    built = made_of(recipe, rows)
    plans = freeze(built.model, recipe.stages[0])
    frozen = [name for name, p in built.model.named_parameters() if not p.requires_grad]
    assert frozen == ["language.lm_head.weight"]
    assert plans["head"].trainable == 16 * 32 + 32 + 33 * len(built.answers.answers)  # type: ignore[union-attr]
    writing = recipe.stages[0].model_copy(update={"objective": "next-token", "learn": {"language": "all"}})
    assert freeze(built.model, writing)["head"].trainable == 0
    tied = headed(language={"config": RECIPE["model"]["compose"]["language"]["config"] | {"tie_word_embeddings": True}})
    built = made_of(tied, rows)
    freeze(built.model, tied.stages[0])
    assert all(p.requires_grad for p in built.model.parameters())


def test_the_head_is_a_tower_with_its_own_rate_ratio_and_memory(rows: list[Row]) -> None:
    rates_of = {"vision": 1e-4, "connector": 1e-3, "language": 1e-5, "head": 2e-3}
    recipe = headed({"lr": rates_of, "optimizer": {"clip": dict.fromkeys(ALL, 1.0), "weight_decay": {"head": 0.1}}})
    built = made_of(recipe, rows)
    freeze(built.model, recipe.stages[0])
    optimizer = build_optimizer(built.model, recipe.stages[0])
    assert rates(optimizer) == rates_of
    assert {g["weight_decay"] for g in optimizer.param_groups if g["tower"] == "head"} == {0.0, 0.1}
    ratio = UpdateRatio(parameters_by_tower(optimizer))
    clip = recipe.stages[0].optimizer.clip
    precision = pick_precision("fp32", CPU.device)
    result = train_step(built.model, [batch_of(built, rows)], optimizer, precision, WHOLE, clip, objective=Answers())
    assert result.tokens == len(rows) and set(result.tower_norms) == set(ALL)
    assert ratio.after_step()["head"] > 0
    count = sum(p.numel() for _, p in built.model.tower_parameters("head"))
    assert state_bytes(built.model)["head"].weights == 8 * count
    assert set(state_bytes(build_meta(validate(RECIPE, where="plain").model))) == {"vision", "connector", "language"}


def test_the_head_stays_in_evaluation_mode_while_it_is_frozen(rows: list[Row]) -> None:
    built = made_of(headed(), rows)
    freeze(built.model, headed({"learn": {"language": "all"}}).stages[0])
    built.model.train()
    (head,), (language,) = (built.model.tower_modules(tower) for tower in ("head", "language"))
    assert language[1].training and not head[1].training


def test_on_the_meta_device_the_recipe_says_how_many_answers(rows: list[Row]) -> None:
    for told, expected in ((3129, 3129), (None, 1)):
        model = build_meta(headed(head={"answers": told, "hidden": 40}).model)
        shapes = [tuple(p.shape) for _, p in model.tower_parameters("head")]
        assert shapes == [(40, 16), (40,), (expected, 40), (expected,)]


def test_what_does_not_go_together_is_said(rows: list[Row]) -> None:
    with pytest.raises(UserError, match=r"stage 'see' learns answers by a head: give 'model\.compose\.head'"):
        headed(head=None)
    with pytest.raises(UserError, match=r"'learn\.head' is for objective answers"):
        headed({"objective": "next-token"})
    writes = {"objective": "next-token", "learn": {"language": "all"}}
    with pytest.raises(UserError, match=r"no stage has the objective answers"):
        headed(writes)
    with pytest.raises(UserError, match=r"stops by its answers, which are the head's, and trains no head"):
        headed(writes | {"early_stop": {"metric": "accuracy"}, "validate_every": 1, "validation": "test"})
    chain = copy.deepcopy(RECIPE) | {"evaluate_after": {"see": {"data": "test"}}}
    chain["model"]["compose"]["head"] = {}
    second = {"name": "choose", "objective": "answers", "learn": {"head": "all"}}
    chain["stages"] = [chain["stages"][0], chain["stages"][0] | second]
    with pytest.raises(UserError, match=r"'evaluate_after.see' asks the head, which has not learned anything by then"):
        validate(chain, where="chain")
    validate(chain | {"evaluate_after": {"see": {"data": "test", "metric": "perplexity"}}}, where="chain")
    with pytest.raises(UserError, match=r"min_count"):
        made_of(headed(head={"min_count": 99}), rows)
    with pytest.raises(UserError, match=r"1 answers are given 1 times or more"):
        made_of(headed(head={"min_count": 1}), rows[:1])
    plain = build(validate(RECIPE, where="plain").model, seed=0, texts=["red"])
    with pytest.raises(UserError, match="no head that chooses answers"):
        Answers().check(plain.model)
