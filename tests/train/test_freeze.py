"""Freezing: what the stage names learns, everything else does not, and a rule that does nothing is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sightline.errors import UserError
from sightline.models.build import Built
from sightline.train.checkpoint import WHOLE
from sightline.train.freeze import freeze
from tests.train.tiny import stage


def learning(built: Built) -> set[str]:
    return {name for name, parameter in built.model.named_parameters() if parameter.requires_grad}


def of_tower(built: Built, tower: Any) -> set[str]:
    return {name for name, _ in built.model.tower_parameters(tower)}


def test_towers_cover_the_model_once(built: Built) -> None:
    parts = [of_tower(built, tower) for tower in ("vision", "connector", "language")]
    assert set.union(*parts) == {name for name, _ in built.model.named_parameters()}
    assert sum(map(len, parts)) == len(set.union(*parts))


def test_an_unnamed_tower_is_frozen(built: Built) -> None:
    plans = freeze(built.model, stage(learn={"connector": "all"}).stages[0])
    assert learning(built) == of_tower(built, "connector")
    assert plans["vision"].trainable == 0 and plans["vision"].frozen > 0
    assert plans["connector"].rule == "all" and plans["connector"].frozen == 0


def test_a_later_stage_frees_again(built: Built) -> None:
    freeze(built.model, stage(learn={"connector": "all"}).stages[0])
    freeze(built.model, stage(learn={"vision": "all", "connector": "all", "language": "all"}).stages[0])
    assert len(learning(built)) == len(list(built.model.named_parameters()))


def test_the_last_block(built: Built) -> None:
    freeze(built.model, stage(learn={"language": {"last": 1}}).stages[0])
    blocks = built.model.blocks("language")
    assert all(p.requires_grad for p in blocks[-1].parameters())
    assert not any(p.requires_grad for p in blocks[0].parameters())
    assert learning(built) <= of_tower(built, "language")


def test_norms(built: Built) -> None:
    freeze(built.model, stage(learn={"language": {"norms": True}}).stages[0])
    assert learning(built)
    assert all("norm" in name for name in learning(built))
    assert all(p.ndim == 1 for p in built.model.parameters() if p.requires_grad)


def test_a_pattern(built: Built) -> None:
    freeze(built.model, stage(learn={"language": {"pattern": r"q_proj|v_proj"}}).stages[0])
    assert len(learning(built)) == 4
    assert all("q_proj" in name or "v_proj" in name for name in learning(built))


@pytest.mark.parametrize(
    ("learn", "told"),
    [
        ({"language": {"last": 9}}, "has 2 blocks, not 9"),
        ({"language": {"pattern": "nothing_like_it"}}, "matches no parameter"),
        ({"language": {"pattern": "("}}, "not a regular expression"),
    ],
)
def test_a_rule_that_cannot_be_kept(built: Built, learn: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=r"learn\.language") as error:
        freeze(built.model, stage(learn=learn).stages[0])
    assert told in str(error.value)


def test_one_step_moves_what_learns_and_nothing_else(built: Built, rows: list[Any]) -> None:
    from sightline.data.pack import pack
    from sightline.train.groups import build_optimizer
    from sightline.train.precision import pick_precision
    from sightline.train.step import train_step

    spec = stage(learn={"connector": "all", "language": {"last": 1}}).stages[0]
    freeze(built.model, spec)
    before = {name: value.clone() for name, value in built.model.state_dict().items()}
    device = torch.device("cpu")
    batch = built.encoder.collate(pack([built.encoder.encode(row) for row in rows[:4]], "none", 512))
    train_step(
        built.model,
        [batch],
        build_optimizer(built.model, spec),
        pick_precision("fp32", device),
        WHOLE,
        1.0,
    )
    moved = {name for name, value in built.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == learning(built)
