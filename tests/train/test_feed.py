"""Feeding: micro-batches are pure functions of their number, and ranks share one global batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sightline.data.dataset import Rows
from sightline.errors import UserError
from sightline.models.build import Built
from sightline.train.feed import WINDOW, MicroBatches, Plan, plan_steps, steps, supply
from sightline.train.parallel.ranks import Ranks
from tests.train.tiny import stage

CPU = torch.device("cpu")


def feed(built: Built, rows: list[Any], world: int = 1, rank: int = 0, **changes: Any) -> MicroBatches:
    spec = stage(**changes).stages[0]
    found, skipped = supply(Rows(tuple(rows)), spec, built.encoder, lambda n: None)
    assert not skipped
    plan = plan_steps(spec, {"train": len(found)}, world)
    return MicroBatches({"train": found}, spec, plan, 0, Ranks(rank, world, CPU), None)


def places(batches: MicroBatches, step: int) -> list[str]:
    per = batches.plan.accumulate
    return [str(where) for i in range(step * per, (step + 1) * per) for where in batches[i].examples]


def test_a_micro_batch_is_the_same_whenever_it_is_asked_for(built: Built, rows: list[Any]) -> None:
    batches = feed(built, rows, steps=6, batch=4, flip=True)
    late = feed(built, rows, steps=6, batch=4, flip=True)[5]
    for i in range(6):
        early = batches[i]
    assert torch.equal(early.input_ids, late.input_ids)
    assert early.pixel_values is not None and late.pixel_values is not None
    assert torch.equal(early.pixel_values, late.pixel_values)


@pytest.mark.parametrize("group", [False, True])
def test_ranks_and_micro_batches_share_the_same_global_batch(built: Built, rows: list[Any], group: bool) -> None:
    changes = {"steps": 5, "batch": 4, "group_by_length": group}
    whole = feed(built, rows, **changes)
    for step in range(5):
        shares = [places(feed(built, rows, 2, rank, micro_batch=1, **changes), step) for rank in (0, 1)]
        assert sorted(shares[0] + shares[1]) == sorted(places(whole, step))


def test_grouping_by_length_draws_the_same_rows_with_less_padding(built: Built, rows: list[Any]) -> None:
    plain, grouped = (feed(built, rows, steps=6, batch=4, group_by_length=group) for group in (False, True))

    def drawn(batches: MicroBatches) -> list[str]:
        return sorted(place for step in range(6) for place in places(batches, step))

    def padding(batches: MicroBatches) -> int:
        return sum(int((~batches[i].attention_mask).sum()) for i in range(6))

    assert drawn(plain) == drawn(grouped)
    assert padding(grouped) < padding(plain)


def test_the_last_window_may_be_short(built: Built, rows: list[Any]) -> None:
    batches = feed(built, rows, steps=WINDOW + 3, batch=2, group_by_length=True)
    assert len([batches[i] for i in range(len(batches))]) == WINDOW + 3


def test_steps_start_where_they_are_told(built: Built, rows: list[Any]) -> None:
    batches = feed(built, rows, steps=5, batch=4, micro_batch=2)
    assert [len(step) for step in steps(batches, 0, 0)] == [2] * 5
    resumed = list(steps(batches, 3, 0))
    assert len(resumed) == 2
    assert torch.equal(resumed[0][1].input_ids, batches[7].input_ids)


def test_loading_does_not_touch_the_global_random_state(built: Built, rows: list[Any]) -> None:
    batches = feed(built, rows, steps=3, batch=4, flip=True)
    before = torch.get_rng_state()
    list(steps(batches, 0, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_loading_processes_give_the_same_batches(built: Built, rows: list[Any]) -> None:
    batches = feed(built, rows, steps=3, batch=4)
    for here, there in zip(steps(batches, 0, 0), steps(batches, 0, 2), strict=True):
        assert torch.equal(here[0].input_ids, there[0].input_ids)


def test_epochs_count_sequences(built: Built, rows: list[Any]) -> None:
    spec = stage(steps=None, epochs=2.5, batch=4).stages[0]
    assert plan_steps(spec, {"a": 10, "b": 2}, 1) == Plan(total=8, micro=4, accumulate=1)
    assert plan_steps(stage(batch=16, micro_batch=2).stages[0], {"a": 10}, 4) == Plan(total=4, micro=2, accumulate=2)


def test_a_batch_that_does_not_divide(built: Built) -> None:
    with pytest.raises(UserError, match="not a multiple of micro_batch 3 x 2 ranks") as error:
        plan_steps(stage(batch=8, micro_batch=3).stages[0], {"a": 10}, 2)
    assert "set batch to 12" in str(error.value)


def test_rows_over_the_limit_are_told_or_counted(built: Built, rows: list[Any]) -> None:
    longest = max(len(built.encoder.encode(row)) for row in rows)
    skip = stage(max_length=longest - 1, over_length="skip").stages[0]
    found, skipped = supply(Rows(tuple(rows)), skip, built.encoder, lambda n: None)
    assert skipped and len(found) + len(skipped) == len(rows)
    assert "more than max_length" in skipped[0].reason
    with pytest.raises(UserError, match="more than max_length"):
        supply(Rows(tuple(rows)), stage(max_length=longest - 1).stages[0], built.encoder, lambda n: None)
    with pytest.raises(UserError, match="every row is over the length limit"):
        supply(Rows(tuple(rows)), stage(max_length=2, over_length="skip").stages[0], built.encoder, lambda n: None)
