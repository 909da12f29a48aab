"""Small models to plan for, and what a real step of them holds by torch's own memory tracker."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributed._tools.mem_tracker import MemTracker

from sightline.losses.next_token import next_token
from sightline.models.build import build_meta
from sightline.models.composed import ComposedVLM
from sightline.models.vlm import VLM
from sightline.plan.sample import RowShape, sample
from sightline.recipe.schema import ModelSpec, Stage
from sightline.train.freeze import freeze

Forward = Callable[[VLM], Tensor]
ROWS = RowShape(tokens=48, image_tokens=16, patches=16, supervised=20)
ALIGN, TUNE = {"connector": "all"}, {"connector": "all", "language": "all"}


def model(
    learn: dict[str, Any], *, width: int = 64, depth: int = 2, words: int = 500, sight: int = 3, attention: str = "sdpa"
) -> VLM:
    """A CLIP-like tower of `sight` blocks and a Llama of `depth`, on the meta device, ready to be trained."""
    vision = {"model_type": "clip_vision_model", "hidden_size": 64, "intermediate_size": 256, "image_size": 56}
    vision |= {"num_hidden_layers": sight, "num_attention_heads": 4, "patch_size": 14}
    language = {"model_type": "llama", "hidden_size": width, "intermediate_size": 3 * width, "vocab_size": words}
    language |= {"num_hidden_layers": depth, "num_attention_heads": 4, "num_key_value_heads": 4}
    compose = {"vision": {"config": vision, "layer": -1}, "language": {"config": language}}
    made = build_meta(ModelSpec.model_validate({"compose": compose, "attention": attention}))
    freeze(made, stage(learn))
    return made.train()


def stage(learn: dict[str, Any], **more: Any) -> Stage:
    told = {"name": "learn", "data": {"rows": 1.0}, "learn": learn, "lr": 1e-3, "steps": 1, "batch": 4}
    return Stage.model_validate(told | more)


def forward(rows: int, *, casting: bool, checkpointing: bool, shape: RowShape = ROWS, device: str = "cpu") -> Forward:
    """A forward pass of `rows` rows, as a stage makes it."""

    def run(made: VLM) -> Tensor:
        assert isinstance(made, ComposedVLM)
        made.set_gradient_checkpointing(checkpointing)
        batch = sample(made, shape, rows)
        for name in ("image_places", "rows"):
            setattr(batch, name, torch.arange(len(getattr(batch, name))))
        batch = batch.to(torch.device(device))
        with torch.autocast(device, dtype=torch.bfloat16, enabled=casting):
            return next_token(*made(batch))[0]

    return run


def real(made: VLM) -> VLM:
    """`made` with weights, on the CPU."""
    made = made.to_empty(device="cpu")
    for tensor in (*made.parameters(), *made.buffers()):
        tensor.data.zero_() if not tensor.is_floating_point() else tensor.data.normal_(0, 0.02)
    return made


class Tracker(MemTracker):
    """torch's tracker; its hooks on gradients refuse frozen parameters, and no sum needs them."""

    def _track_module_params_and_buffers(self, module: Any, install_grad_hooks: bool = True) -> Any:
        return super()._track_module_params_and_buffers(module, False)


def tracked(made: VLM, run: Forward) -> tuple[int, int]:
    """(bytes at the peak, bytes between the passes) of a real step, beyond weights."""
    tracker = Tracker()
    tracker.track_external(made)

    def total(kind: str) -> int:
        return int(tracker.get_tracker_snapshot(kind)[torch.device("cpu")]["Total"])

    gc.collect()
    gc.disable()
    try:
        with tracker:
            before = total("current")
            loss = run(made)
            between = total("current") - before
            loss.backward()
    finally:
        gc.enable()
    return total("peak") - before, between
