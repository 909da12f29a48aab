from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from sightline.errors import UserError
from sightline.plan.devices import GPUS, bandwidth, find
from sightline.plan.layouts import World, bubble, layouts_of, rank_bytes
from sightline.plan.memory import STEP_BYTES
from sightline.plan.speed import Weights, exchanges
from tests.plan.rehearsed import ALIGN, model

EIGHT = World(8, 1, 450e9, 50e9)
FAR = World(8, 4, 450e9, 50e9)


def weights(*, learning: int, frozen: int) -> list[Tensor]:
    def make(count: int, learns: bool) -> Tensor:
        return nn.Parameter(torch.empty(count // 8, device="meta").view(-1, 8), requires_grad=learns)

    return [make(count, learns) for count, learns in ((learning, True), (frozen, False)) for _ in range(8)]


def deepspeed_zero2(parameters: int, ranks: int) -> float:
    """DeepSpeed's estimate_zero2_model_states_mem_needs without offload, as bytes: it knows no frozen weights."""
    return 2 * parameters + 18 * parameters / ranks


def test_zero2_is_the_missions_formula() -> None:
    """2P + (2P + 12P) / N, where all learns (recipes.md)."""
    count = 8 * 80_000
    held = rank_bytes(weights(learning=count, frozen=0), [], "zero2", EIGHT)
    assert held.total == 2 * count + (2 * count + 12 * count) / 8 + STEP_BYTES


def test_frozen_weights_cost_two_bytes_under_zero2() -> None:
    """Where DeepSpeed's own formula counts them as if they learned."""
    learning, frozen = 8 * 1_000, 8 * 99_000
    held = rank_bytes(weights(learning=learning, frozen=frozen), [], "zero2", EIGHT).total
    assert held == 2 * (learning + frozen) + 14 * learning / 8 + STEP_BYTES
    assert deepspeed_zero2(learning + frozen, 8) > 2.1 * held


def test_fsdp_shards_by_rows_and_pads() -> None:
    parameter = nn.Parameter(torch.empty(9, 5, device="meta"))
    held = rank_bytes([parameter], [], "fsdp", EIGHT)
    assert held.weights == held.gradients == 4 * math.ceil(9 / 8) * 5
    assert held.optimizer == 2 * held.weights + 4


def test_hybrid_shards_within_a_node() -> None:
    tensors = weights(learning=8 * 64, frozen=0)
    assert rank_bytes(tensors, [], "hybrid", FAR) == rank_bytes(tensors, [], "fsdp", EIGHT)
    assert "hybrid" in layouts_of(FAR) and "hybrid" not in layouts_of(EIGHT)
    assert layouts_of(World(1, 1, 1.0, 1.0)) == ("one",)


def test_bubble_of_1f1b() -> None:
    assert bubble(2, 8) == pytest.approx(1 / 9) and bubble(1, 8) == 0.0


def test_rings() -> None:
    weights = Weights(learning=1000, passed=500, dead=250)
    (reduced,) = exchanges("ddp", EIGHT, weights, 4)
    assert reduced.bytes == 2 * 4 * 1000 * 7 / 8  # once a step, however many micro-batches
    gather, scatter = exchanges("fsdp", EIGHT, weights, 4)
    assert gather.bytes == 4 * 2 * (1750 + 1500) * 7 / 8  # what has no backward pass is gathered once
    assert scatter.bytes == 4 * 4 * 1000 * 7 / 8  # gradients add up in fp32
    assert exchanges("ddp", FAR, weights, 1)[0].seconds > exchanges("ddp", EIGHT, weights, 1)[0].seconds
    assert exchanges("one", World(1, 1, 1.0, 1.0), weights, 1) == ()


def test_a_model_that_learns_nothing_in_a_tower_has_no_gradients_there() -> None:
    from sightline.plan.layouts import state_of

    held = state_of(model(ALIGN), "zero2", EIGHT)
    assert held["vision"].gradients == held["vision"].optimizer == 0 < held["vision"].weights


def test_gpus() -> None:
    assert find("H100-80GB") is GPUS["h100-80gb"]
    assert all(gpu.source and gpu.half > gpu.single and gpu.memory < 2**38 for gpu in GPUS.values())
    with pytest.raises(UserError, match="did you mean 'h100-80gb'") as told:
        find("h100-80")
    assert "a100-40gb" in str(told.value)


@pytest.mark.parametrize(("text", "size"), [("400Gbps", 50e9), ("50 GB/s", 50e9), ("3.2Tbps", 400e9)])
def test_bandwidth(text: str, size: float) -> None:
    assert bandwidth(text) == size


@pytest.mark.parametrize("text", ["fast", "400", "0Gbps", "-1Gbps"])
def test_no_bandwidth(text: str) -> None:
    with pytest.raises(UserError, match="no bandwidth"):
        bandwidth(text)
