from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.losses.next_token import next_token
from sightline.models.vlm import VLM
from sightline.plan.choice import as_written, enough, options
from sightline.plan.devices import GPUS
from sightline.plan.layouts import World
from sightline.plan.savings import savings
from sightline.plan.stage import StageOnGpus
from tests.plan.rehearsed import ALIGN, ROWS, model, stage

ONE = World(1, 1, 1.0, 1.0)


def on_one(learn: dict[str, str], **more: object) -> StageOnGpus:
    def loss(made: VLM, batch: object) -> object:
        return next_token(*made(batch))[0]

    return StageOnGpus(stage(learn, **more), ONE, GPUS["h100-80gb"], True, lambda: model(learn), ROWS, loss)  # type: ignore[arg-type]


def test_a_frozen_tower_saves_gradients_and_moments() -> None:
    found = on_one(ALIGN)
    told = {each.what: each for each in savings(found, as_written(found))}
    count = {tower: [p.numel() for _, p in found.model.tower_parameters(tower)] for tower in found.model.towers}
    for tower in ("vision", "language"):
        assert told[f"freezing {tower}"].bytes == 12 * sum(count[tower]) + 4 * len(count[tower])
    assert told["holding frozen weights in half precision"].bytes == 2 * sum(count["vision"] + count["language"])
    assert told["keeping its features (cache_features)"].seconds > 0


@pytest.mark.slow
def test_kept_features_are_seen_in_the_rehearsal() -> None:
    found, kept = on_one(ALIGN), on_one(ALIGN, cache_features=True)
    one, other = (each.rehearsal("one", False, 2) for each in (found, kept))
    assert one is not None and other is not None
    assert one.flops["vision"] > 0 == other.flops["vision"]
    assert not [each for each in savings(kept, as_written(kept)) if "cache" in each.what]


@pytest.mark.slow
def test_the_largest_micro_batch_is_the_last_that_fits() -> None:
    found = on_one(ALIGN, batch=64, micro_batch=4)
    largest = found.option("one", False).largest
    assert largest is not None and largest > 4
    room = [found.gpu.memory - found.option("one", False, rows).total for rows in (largest, largest + 1)]
    assert room[0] >= 0 > room[1]


@pytest.mark.slow
def test_more_gpus_hold_what_one_does_not() -> None:
    found = on_one({"connector": "all", "language": "all"})
    state = found.option("one", True).total
    small = replace(found, gpu=replace(found.gpu, memory=state + 2**29), _seen={})
    assert small.option("one", True).fits and enough(small) is None  # ranks need buffers of their own
    wide = replace(found, gpu=replace(found.gpu, memory=state + 2**30), _seen={})
    assert enough(wide) == 2


def test_a_forward_pass_that_looks_at_numbers_is_not_rehearsed() -> None:
    def loss(made: VLM, batch: object) -> object:
        total = next_token(*made(batch))[0]
        return total if float(total.detach()) > 0 else -total

    found = replace(on_one(ALIGN), loss=loss, _seen={})  # type: ignore[arg-type]
    assert not found.rehearsable
    (option,) = options(found)
    assert option.activations is None and option.time is None and option.fits
    assert [each.what for each in savings(found, option)][:2] == ["freezing vision", "freezing language"]


@pytest.mark.slow
def test_on_one_gpu_gradients_come_as_activations_go() -> None:
    learn = {"connector": "all", "language": "all"}
    alone, gathering = on_one(learn, batch=2), on_one(learn, batch=4, micro_batch=2)
    assert alone.grows and not gathering.grows
    seen, option = alone.rehearsal("one", False, 2), alone.option("one", False, 2)
    gradients = sum(state.gradients for state in option.state.values())
    assert seen is not None and option.activations == max(0.0, seen.peak - gradients)
    assert option.total <= gathering.option("one", False, 2).total
