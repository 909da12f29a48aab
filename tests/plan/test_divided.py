"""Tensor and pipeline ranks: what the planner says of them, against laws and brute force."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import pytest

from sightline.errors import UserError
from sightline.losses.next_token import next_token
from sightline.models.vlm import VLM
from sightline.plan.choice import as_written, options, split_option
from sightline.plan.devices import GPUS
from sightline.plan.divided import data_world
from sightline.plan.layouts import World, bubble, rank_bytes, state_of
from sightline.plan.memory import StateBytes
from sightline.plan.pipeline import balanced, duration, shared_out, under_way
from sightline.plan.pipeline import bubble as idle
from sightline.plan.speed import Weights, exchanges
from sightline.plan.stage import StageOnGpus
from sightline.plan.tensor import Split, narrowed
from sightline.plan.trace import total_flops
from sightline.recipe.schema import Parallel
from sightline.train.parallel.tensor import cuts
from tests.plan.rehearsed import ROWS, TUNE, model, stage

EIGHT, FAR = World(8, 1, 450e9, 50e9), World(8, 4, 450e9, 50e9)


SEEN: dict[Any, Any] = {}  # rehearsals, which are the same on any machines


def found(world: World, parallel: dict[str, Any] | None = None) -> StageOnGpus:
    def loss(made: VLM, batch: object) -> object:
        return next_token(*made(batch))[0]

    def make() -> VLM:
        return model(TUNE, depth=2, sight=2)

    spec = stage(TUNE, batch=64, micro_batch=4)
    made = Parallel.model_validate(parallel or {})
    return StageOnGpus(spec, world, GPUS["h100-80gb"], True, make, ROWS, loss, "", made, cuts, SEEN)  # type: ignore[arg-type]


def count(made: VLM) -> int:
    return sum(parameter.numel() for parameter in made.parameters())


@pytest.mark.parametrize("ranks", [2, 4])
def test_tensor_ranks_hold_blocks_once_and_the_rest_each(ranks: int) -> None:
    whole, part = model(TUNE), narrowed(model(TUNE), ranks, cuts)
    matrices = [
        (block, name)
        for tower in ("vision", "language")
        for block in whole.blocks(tower)  # type: ignore[arg-type]
        for name, parameter in block.named_parameters()
        if parameter.ndim == 2
    ]
    cut = sum(block.get_parameter(name).numel() for block, name in matrices)
    biases = sum(
        block.get_parameter(f"{name}.bias").numel()
        for block in whole.blocks("vision")
        for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.fc1")
    )
    assert count(part) * ranks == cut + biases + ranks * (count(whole) - cut - biases)


def test_heads_that_do_not_divide_are_told() -> None:
    with pytest.raises(UserError, match="4 attention heads, which 8 tensor ranks do not divide"):
        narrowed(model(TUNE), 8, cuts)


@pytest.mark.slow
def test_tensor_ranks_share_the_products_of_blocks() -> None:
    """What all ranks compute together is the whole, and what stands outside blocks once more a rank."""
    here = found(EIGHT)
    one, two, four = (here.rehearsal("fsdp", False, 4, ranks) for ranks in (1, 2, 4))
    assert one and two and four
    both = [total_flops(each.forward) + total_flops(each.backward) for each in (one, two, four)]
    outside = 2 * both[1] - both[0]  # blocks + 1 outside = both[0]; blocks / 2 + outside = both[1]
    assert 4 * both[2] - both[0] == pytest.approx(3 * outside, rel=1e-9) and 0 < outside < both[0] / 3
    assert four.bare < two.bare < one.bare


@pytest.mark.parametrize("stages", [1, 2, 3, 4])
def test_stages_are_as_even_as_can_be(stages: int) -> None:
    costs = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    sizes = balanced(costs, stages)
    assert sum(sizes) == len(costs) and len(sizes) == stages and min(sizes) > 0

    def dearest(ends: tuple[int, ...]) -> float:
        return max(sum(costs[a:b]) for a, b in itertools.pairwise((0, *ends, len(costs))))

    best = min(dearest(ends) for ends in itertools.combinations(range(1, len(costs)), stages - 1))
    assert dearest(tuple(itertools.accumulate(sizes[:-1]))) == best


def test_fewer_blocks_than_stages_is_told() -> None:
    with pytest.raises(UserError, match="3 blocks cannot be shared out to 4 pipeline stages"):
        balanced([1.0] * 3, 4)


@pytest.mark.parametrize(("stages", "times"), [(1, 5), (2, 8), (4, 4), (8, 64)])
def test_equal_stages_have_the_bubble_of_1f1b(stages: int, times: int) -> None:
    costs = [2.0] * stages
    assert duration(costs, times) == 2.0 * (times + stages - 1)
    assert idle(costs, times) == pytest.approx(bubble(stages, times))
    assert [under_way(i, stages, times) for i in range(stages)] == [min(times, stages - i) for i in range(stages)]


def test_an_uneven_pipeline_waits_for_its_dearest_stage() -> None:
    """Against a simulation of forward passes handed from stage to stage."""
    costs, times = [1.0, 3.0, 2.0], 6
    ready = [0.0] * len(costs)
    for _ in range(times):
        done = 0.0
        for place, cost in enumerate(costs):
            ready[place] = done = max(done, ready[place]) + cost
    assert duration(costs, times) == ready[-1]


@pytest.mark.parametrize("split", [Split(1, 2), Split(2, 1), Split(2, 2), Split(4, 4)])
def test_the_stages_together_hold_the_model(split: Split) -> None:
    whole = narrowed(model(TUNE, depth=4, sight=4), split.tensor, cuts)
    stages = shared_out(whole, balanced([1.0] * 8, split.pipeline))
    held = Counter(id(parameter) for each in stages for parameters in each.values() for parameter in parameters)
    assert held == Counter({id(parameter): 1 for parameter in whole.parameters()})
    assert all(any(parameters for parameters in each.values()) for each in stages)


def test_ranks_that_are_fed_other_rows() -> None:
    assert data_world(FAR, Split(8, 1)) == World(1, 4, 450e9, 50e9 / 8)
    assert data_world(FAR, Split(2, 1)) == World(4, 4, 450e9, 50e9 / 2)
    assert data_world(FAR, Split(4, 8)).size == 1 and data_world(EIGHT, Split()) == EIGHT


@pytest.mark.slow
def test_a_split_by_one_is_the_plain_layout() -> None:
    here = found(EIGHT)
    plain, split = here.option("fsdp", True, 4), split_option(here, "fsdp", Split(1, 1), True)
    assert split is not None
    assert sum(split.state.values(), StateBytes()) == sum(plain.state.values(), StateBytes())
    assert plain.time is not None and split.time is not None and split.bubble == 0
    same = split_option_at(here, plain.micro)
    assert same.activations == pytest.approx(plain.activations, rel=0.15)  # one kept apart from what passes
    assert same.time.forward + same.time.backward == pytest.approx(plain.time.forward + plain.time.backward)


def split_option_at(here: StageOnGpus, micro: int) -> Any:
    from sightline.plan import choice
    from sightline.plan.divided import Division

    seen, twice = (here.rehearsal("fsdp", True, rows) for rows in (here.micro, 2 * here.micro))
    plain = here.rehearsal("fsdp", False, here.micro)
    assert seen and twice and plain and here.shape
    division = Division(here.cut(1), Split(), seen, twice, plain, here.micro, here.shape, True)
    return choice._split(here, division, "fsdp", micro, here.world.size)


def test_zero_plus_plus_sends_less_far_away() -> None:
    """0.5 M + 0.25 M between machines, where ZeRO-3 sends 3 M (arXiv 2306.10209, table 1)."""
    weights = Weights(learning=1_000, passed=0, dead=0)
    far = {each.name: each.bytes for each in exchanges("zero++", FAR, weights, 1)}
    three = sum(each.bytes for each in exchanges("zero3", FAR, weights, 1))
    near = far.pop("all-gather of weights within the node")
    assert sum(far.values()) * 4 == pytest.approx(three) and near == 2 * 1_000 * 7 / 8


def test_zero_plus_plus_holds_a_second_copy_in_the_node() -> None:
    parameters = [p for p in model(TUNE).parameters() if p.numel() % 32 == 0]
    three, plus = (rank_bytes(parameters, [], layout, FAR) for layout in ("zero3", "zero++"))  # type: ignore[arg-type]
    assert plus.weights - three.weights == 2 * sum(p.numel() for p in parameters) // 8


@pytest.mark.parametrize("layout", [pytest.param("zero1", marks=pytest.mark.slow), "zero2", "zero3"])
def test_offload_moves_the_optimizer_to_the_host(layout: Any) -> None:
    """DeepSpeed's formulas: 2P on the device under ZeRO-2, and 16P / N a rank on the host."""
    here = found(EIGHT)
    option = here.option(layout, True, offload="optimizer")
    held = sum(option.state.values(), StateBytes())
    assert held.optimizer == held.masters == held.gradients == 0
    share = sum(each.masters for each in state_of(here.model, layout, EIGHT).values()) / 4
    assert option.host == pytest.approx(16 * share, rel=1e-3)
    slow = option.time, here.option(layout, True).time
    assert slow[0] and slow[1] and slow[0].optimizer > slow[1].optimizer


@pytest.mark.slow
def test_the_recipe_says_the_layout() -> None:
    here = found(EIGHT, {"kind": "fsdp", "tensor": 2})
    option = as_written(here)
    assert (option.layout, option.split, option.name) == ("fsdp", Split(2, 1), "fsdp, tensor 2")
    assert as_written(found(EIGHT, {"kind": "zero2", "offload": "optimizer"})).name == "zero2, offload optimizer"
    with pytest.raises(UserError, match="does not make the 8 processes"):
        as_written(found(EIGHT, {"tensor": 3}))


@pytest.mark.slow
def test_several_machines_are_offered_splits() -> None:
    told = options(found(FAR))
    assert any(each.split.size > 1 for each in told) and any(each.layout == "zero++" for each in told)
    assert all(each.split.size == 1 for each in options(found(EIGHT)))
