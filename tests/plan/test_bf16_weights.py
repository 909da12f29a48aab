"""Weights in bf16: the plan against what processes really hold, to the byte, and against real steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.losses.next_token import next_token
from sightline.models.vlm import VLM
from sightline.plan.choice import as_written, options
from sightline.plan.devices import GPUS
from sightline.plan.layouts import World, state_of
from sightline.plan.memory import FUSED, ROUNDED, StateBytes
from sightline.plan.speed import Weights, exchanges
from sightline.plan.stage import StageOnGpus
from sightline.plan.trace import Ledger, rehearse
from sightline.recipe.schema import Parallel
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.tensor import cuts
from sightline.train.rounding import RoundedAdamW, halve
from tests.plan import rehearsed
from tests.plan.held import BATCH, held, make
from tests.plan.rehearsed import ALIGN, ROWS, TUNE, model, real, stage, tracked
from tests.train.parallel.processes import on_ranks

LAYOUTS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp": {"kind": "fsdp"},
    "fsdp, all shared out, cast": {"kind": "fsdp", "frozen": "shard", "gather": "bf16"},
    "hybrid": {"kind": "hybrid", "shard": 1},
    "tensor": {"tensor": 2},
    "pipeline": {"pipeline": 2},
}
FORMATS = (("fp32", "stochastic"), ("bf16", "stochastic"), ("bf16", "kahan"))
SEEN: dict[Any, Any] = {}  # rehearsals, which are the same on any machines
LEARN = {"frozen-language": ALIGN, "language-learns": TUNE}


def found(weights: str, rounding: str, learn: dict[str, str], world: int, parallel: dict[str, Any]) -> StageOnGpus:
    def loss(made: VLM, batch: object) -> torch.Tensor:
        return next_token(*made(batch))[0]  # type: ignore[arg-type]

    spec = stage(learn, **BATCH, optimizer={"rounding": rounding})
    told, gpus = Parallel.model_validate(parallel), World(world, 1, 450e9, 50e9)
    each = 1 if parallel.get("kind") == "hybrid" else world
    gpus = World(each, world // each, gpus.peers, gpus.link)
    seen, gpu = SEEN.setdefault((weights, *learn), {}), GPUS["h100-80gb"]
    plain = StageOnGpus(spec, gpus, gpu, True, lambda: make(learn, weights), ROWS, loss, "", told, cuts, _seen=seen)
    return replace(plain, held=weights)  # type: ignore[arg-type]


def planned(*asked: Any) -> StateBytes:
    told = found(*asked)
    if told.parallel.tensor * told.parallel.pipeline > 1:
        return sum(as_written(told).state.values(), StateBytes())
    kind = told.parallel.kind if told.world.size > 1 else "one"  # what `option` says, without its rehearsals
    state = state_of(told.model, kind, told.world, frozen=told.parallel.frozen, adam=told.adam)
    return sum(state.values(), StateBytes())


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan"])
def test_what_the_optimizer_takes_is_what_it_really_takes(rounding: Any) -> None:
    count = 100_000
    weight = torch.nn.Parameter(torch.randn(count).bfloat16())
    optimizer = RoundedAdamW([{"params": [weight]}], betas=(0.9, 0.99), eps=1e-8, rounding=rounding)
    weight.grad = torch.randn(count).bfloat16()
    optimizer.step()
    with Ledger() as ledger:
        optimizer.step()
    told = ROUNDED[rounding]
    assert ledger.peak == pytest.approx(told.passing * count, rel=1e-3)
    assert sum(size * times for (_, size), times in ledger.work.items()) == pytest.approx(told.moved * count, rel=1e-3)


@pytest.mark.parametrize("learn", LEARN.values(), ids=LEARN)
@pytest.mark.parametrize(("weights", "rounding"), FORMATS)
def test_state_of_one_process(learn: dict[str, str], weights: str, rounding: str) -> None:
    seen = held(Ranks(0, 1, torch.device("cpu")), {}, learn, weights, rounding)
    assert seen.pop("between") == seen["gradients"]
    assert planned(weights, rounding, learn, 1, {}) == StateBytes(**seen)


@pytest.mark.slow
@pytest.mark.ddp
def test_state_of_every_layout_that_takes_them(tmp_path: Path) -> None:
    asked = [(told, learn, *format) for told in LAYOUTS.values() for learn in LEARN.values() for format in FORMATS]
    for told, ranks in zip(asked, on_ranks(2, [(held, each) for each in asked], tmp_path), strict=True):
        parallel, learn, weights, rounding = told
        plan = planned(weights, rounding, learn, 2, parallel)
        between = [seen.pop("between") for seen in ranks]
        if parallel.get("pipeline"):  # a stage's stand-ins for other stages' blocks are not planned
            ranks, plan = [each | {"buffers": 0} for each in ranks], replace(plan, buffers=0)
        else:
            assert between[0] == plan.gradients, told
        assert plan in [StateBytes(**seen) for seen in ranks], told
        assert plan.total == max(StateBytes(**seen).total for seen in ranks), told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("learn", "checkpointing"), [(ALIGN, False), (TUNE, True), pytest.param(TUNE, False, marks=pytest.mark.slow)]
)
def test_peaks_are_those_of_a_real_step(learn: dict[str, str], checkpointing: bool) -> None:
    def made() -> VLM:
        built = model(learn, words=1000)
        halve(built)
        return built

    run = rehearsed.forward(3, casting=True, checkpointing=checkpointing)
    seen = rehearse(made(), run)
    peak, kept = tracked(real(made()), run)
    assert seen.peak == pytest.approx(peak, rel=0.01)
    assert seen.kept.total() == pytest.approx(kept, rel=0.01)


def test_gradients_travel_as_they_are_held() -> None:
    weights, eight = Weights(1000, 0, 0), World(8, 1, 450e9, 50e9)
    narrow, wide = (found(each, "stochastic", TUNE, 8, {}) for each in ("bf16", "fp32"))
    assert (narrow.added("ddp"), wide.added("ddp"), narrow.gather, wide.gather) == (2, 4, 2, 4)
    (sent,) = exchanges("ddp", eight, weights, 1, added=narrow.added("ddp"))
    assert sent.bytes == 2 * 2 * 1000 * 7 / 8
    cast = found("bf16", "stochastic", TUNE, 8, {"kind": "fsdp", "gather": "bf16"})
    assert (cast.added("fsdp"), cast.gather) == (4, 2)  # sent in bf16, added up in fp32


@pytest.mark.slow
def test_a_step_is_never_below_what_the_optimizer_passes_through() -> None:
    plain = found("bf16", "stochastic", TUNE, 1, {})
    largest = max(p.numel() for p in plain.model.parameters() if p.requires_grad)
    option = plain.option("one", True, 1)
    assert option.activations is not None
    state = sum(each.total for each in option.state.values())
    assert option.total - state >= ROUNDED["stochastic"].passing * largest
    assert FUSED.passing == 0


@pytest.mark.slow
def test_bf16_weights_are_offered_where_nothing_else_fits() -> None:
    wide, narrow = (found(each, "stochastic", TUNE, 1, {}) for each in ("fp32", "bf16"))
    assert not any(each.weights == "bf16" for each in options(replace(wide, other=lambda: narrow)))  # all fit
    least = [max(options(each), key=lambda option: option.room) for each in (wide, narrow)]
    short = replace(wide.gpu, memory=(least[0].total + least[1].total) / 2)
    assert least[1].total < least[0].total
    told = options(replace(wide, gpu=short, other=lambda: replace(narrow, gpu=short)))
    assert told[0].fits and told[0].name == "one, bf16 weights"
    assert not any(each.fits for each in told if each.weights == "fp32")
