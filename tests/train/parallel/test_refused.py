"""What tensor and pipeline ranks cannot train is told before a row is read; no other process is there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from sightline.errors import UserError
from sightline.recipe.schema import Parallel
from sightline.train.freeze import freeze
from sightline.train.objectives import objective_of
from sightline.train.parallel.choose import layout_of
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import pick_precision
from tests.train.tiny import fresh, stage

SHORT = {"max_length": 64}  # rows that are quickly rehearsed


@contextmanager
def pretended(world: int, **settings: Any) -> Iterator[Layout]:
    """The layout as rank 0 of `world` sees it; exchanges do nothing."""
    before = os.environ.pop("LOCAL_WORLD_SIZE", None)
    dist.init_process_group("fake", rank=0, world_size=world, store=FakeStore())
    try:
        yield layout_of(Parallel(**settings), Ranks(0, world, torch.device("cpu")))
    finally:
        dist.destroy_process_group()
        if before is not None:
            os.environ["LOCAL_WORLD_SIZE"] = before


@pytest.mark.parametrize(
    ("settings", "changes", "told"),
    [
        ({"tensor": 2}, {"optimizer": {"kind": "lamb"}}, "LAMB look at whole matrices"),
        ({"tensor": 2}, {"optimizer": {"clip": {"adaptive": 0.1}}}, "adaptive clipping"),
        ({"tensor": 4, "data": 1}, {}, "the vision tower has 2 attention heads, which 4 tensor ranks do not divide"),
        ({"pipeline": 2, "kind": "fsdp"}, {}, "fsdp does not go with pipeline stages"),
        ({"pipeline": 2}, {"optimizer": {"clip": {"adaptive": 0.1}}}, "adaptive clipping"),
        ({"pipeline": 2}, {"learn": {"connector": "all"}, "cache_features": True}, "kept features"),
        ({"pipeline": 5}, SHORT, "4 blocks cannot be shared out to 5 pipeline stages"),
        ({"pipeline": 2}, {"early_stop": {"metric": "accuracy"}, "validation": "test", "validate_every": 2}, "answers"),
    ],
)
def test_it_is_told(rows: list[Any], settings: dict[str, Any], changes: dict[str, Any], told: str) -> None:
    built, spec = fresh(rows), stage(**changes).stages[0]
    freeze(built.model, spec)
    parallel = Parallel(**settings)
    world = parallel.tensor * parallel.pipeline
    with pretended(world, **settings) as layout, pytest.raises(UserError, match=told) as caught:
        layout.check(
            built.model, spec, objective_of(spec, 0, built.encoder), pick_precision("fp32", layout.ranks.device)
        )
    assert caught.value.where and caught.value.fix


@pytest.mark.parametrize(
    ("quality", "changes", "told"),
    [
        (
            {"one_pass": "it takes one"},
            {"adversarial": {"kind": "trades", "epsilon": 0.1}},
            "and it takes one",
        ),
        (
            {"parted": True},
            {"early_stop": {"metric": "accuracy"}, "validation": "test", "validate_every": 2},
            "answers",
        ),
    ],
)
def test_what_layouts_have_in_common(
    rows: list[Any], quality: dict[str, Any], changes: dict[str, Any], told: str
) -> None:
    built, spec, layout = fresh(rows), stage(**changes).stages[0], Layout(Parallel(), Ranks(0, 1, torch.device("cpu")))
    asked = built.model, spec, objective_of(spec, 0, built.encoder), pick_precision("fp32", layout.ranks.device)
    layout.check(*asked)
    layout.__dict__ |= quality
    with pytest.raises(UserError, match=told) as caught:
        layout.check(*asked)
    assert caught.value.where and caught.value.fix


def test_fp16_is_told(rows: list[Any]) -> None:
    built, spec = fresh(rows), stage().stages[0]
    with pretended(2, tensor=2) as layout, pytest.raises(UserError, match="fp16"):
        layout.check(
            built.model, spec, objective_of(spec, 0, built.encoder), pick_precision("fp16", layout.ranks.device)
        )


def test_a_pipeline_with_few_micro_batches_warns_of_the_bubble(rows: list[Any]) -> None:
    built, spec = fresh(rows), stage(**SHORT, batch=4, micro_batch=4).stages[0]
    freeze(built.model, spec)
    with pretended(2, pipeline=2) as layout, pytest.warns(UserWarning, match="1 micro-batches a step keep 2 pipeline"):
        layout.check(
            built.model, spec, objective_of(spec, 0, built.encoder), pick_precision("fp32", layout.ranks.device)
        )


def test_every_rank_has_its_place() -> None:
    """Neighbours are tensor ranks, then those fed other rows; each pipeline stage has its own."""
    seen = []
    for rank in range(8):
        dist.init_process_group("fake", rank=rank, world_size=8, store=FakeStore())
        try:
            settings = Parallel(tensor=2, pipeline=2, data=2)
            ranks = layout_of(settings, Ranks(rank, 8, torch.device("cpu"))).ranks
            seen.append((ranks.rank, ranks.twin, dist.get_process_group_ranks(ranks.group)))
        finally:
            dist.destroy_process_group()
    assert [rank for rank, _, _ in seen] == [0, 0, 1, 1, 0, 0, 1, 1]
    assert [twin for _, twin, _ in seen] == [0, 1, 0, 1, 2, 3, 2, 3]
    assert [group for _, _, group in seen] == [[0, 2], [1, 3], [0, 2], [1, 3], [4, 6], [5, 7], [4, 6], [5, 7]]
