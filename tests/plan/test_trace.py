"""Rehearsals against real steps: bytes by torch's own tracker, FLOPs by torch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sightline.plan.depth import rehearse_by_depth
from sightline.plan.trace import rehearse, total_flops
from tests.plan import rehearsed
from tests.plan.rehearsed import ALIGN, TUNE, model, real, tracked

ERROR = 0.001  # the same operations are in both books; torch's tracker hears some tensors on its own
SIZES = {"small": (64, 2, 500, 2), "middle": (96, 3, 1000, 3), "large": (128, 4, 2000, 4)}  # width, depth, words, rows


@pytest.mark.parametrize(
    "size", ["small", *(pytest.param(size, marks=pytest.mark.slow) for size in ("middle", "large"))]
)
@pytest.mark.parametrize(
    ("learn", "casting", "checkpointing"), [(ALIGN, True, False), (TUNE, True, True), (TUNE, False, False)]
)
def test_peak_is_that_of_a_real_step(size: str, learn: dict[str, str], casting: bool, checkpointing: bool) -> None:
    width, depth, words, rows = SIZES[size]
    run = rehearsed.forward(rows, casting=casting, checkpointing=checkpointing)
    seen = rehearse(model(learn, width=width, depth=depth, words=words), run)
    peak, kept = tracked(real(model(learn, width=width, depth=depth, words=words)), run)
    assert seen.peak == pytest.approx(peak, rel=ERROR)
    assert seen.kept.total() == pytest.approx(kept, rel=ERROR)
    assert seen.bare <= seen.peak


def test_flops_are_those_of_torch() -> None:
    run = rehearsed.forward(2, casting=False, checkpointing=False)
    seen = rehearse(model(ALIGN, attention="eager"), run)  # torch's counter knows no attention of the CPU's
    made = real(model(ALIGN, attention="eager"))
    with FlopCounterMode(display=False) as counter:
        loss = run(made)
        forward = counter.get_total_flops()
        loss.backward()
    assert total_flops(seen.forward) == seen.flops.total() == forward
    assert total_flops(seen.backward) == counter.get_total_flops() - forward


def test_flops_are_two_a_weight_and_token_and_frozen_vision_has_no_backward() -> None:
    run = rehearsed.forward(2, casting=False, checkpointing=False)
    made = model(ALIGN)
    blocks = sum(p.numel() for block in made.blocks("vision") for p in block.parameters() if p.ndim > 1)
    seen = rehearse(made, run)
    tokens = 2 * 17  # 16 patches and the class token of each image
    attention = 3 * 4 * tokens * 17 * 64  # blocks x two products of (17 x 17 x 64) an image
    patches = 2 * 2 * 16 * 64 * 3 * 14 * 14
    assert seen.flops["vision"] == 2 * blocks * tokens + attention + patches
    trained = rehearse(model({"vision": "all", **ALIGN}), run)
    assert total_flops(trained.backward) - total_flops(seen.backward) >= 1.9 * seen.flops["vision"] - patches


@pytest.mark.parametrize("checkpointing", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_deep_model_is_rehearsed_by_shallow_ones(checkpointing: bool) -> None:
    run = rehearsed.forward(2, casting=True, checkpointing=checkpointing)
    whole = rehearse(model(TUNE, depth=6, sight=5), run)
    told = rehearse_by_depth(lambda: model(TUNE, depth=6, sight=5), run)
    assert told.peak == pytest.approx(whole.peak, rel=0.01)
    assert told.bare == pytest.approx(whole.bare, rel=0.01)
    assert (told.kept, told.flops) == (whole.kept, whole.flops)
    assert (told.forward, told.backward) == (whole.forward, whole.backward)


def test_a_rehearsal_takes_no_memory_and_leaves_no_tensor() -> None:
    made = model(ALIGN, width=1024, depth=3, words=100_000)
    seen = rehearse(made, rehearsed.forward(64, casting=True, checkpointing=False))
    assert seen.peak > 2**30
    assert all(parameter.grad is None for parameter in made.parameters())
    assert torch.zeros(1).add(1).item() == 1.0
