"""One stage on many GPUs: for each layout what a rank holds, whether it fits, and how long a step takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from sightline.models.composed import ComposedVLM
from sightline.models.vlm import VLM
from sightline.plan.depth import rehearse_by_depth
from sightline.plan.devices import GIB, Gpu
from sightline.plan.layouts import (
    HALF,
    SINGLE,
    Frozen,
    Layout,
    World,
    autocast,
    gathered,
    state_of,
    stepped,
)
from sightline.plan.memory import Adam, StateBytes, adam_of
from sightline.plan.sample import RowShape, cached, sample
from sightline.plan.speed import StepTime, Weights, step_time, useful_flops
from sightline.plan.tensor import WHOLE, Cuts, Split, narrowed
from sightline.plan.trace import Rehearsal, rehearse
from sightline.recipe.parallel import Offload
from sightline.recipe.schema import LearnPart, Parallel, Stage, Tower

CONTEXT = 0.6 * GIB  # CUDA's context, cuBLAS' workspaces, torch's kernels: 0.4 to 0.8 GiB by nvidia-smi on Hopper
CHANNELS = 0.7 * GIB  # NCCL's buffers, where there is more than one rank
FRAGMENTS = 0.05  # of activations: what the caching allocator holds in pieces too small to use

Format = Literal["fp32", "bf16"]
Loss = Callable[[VLM, object], torch.Tensor]  # (model, batch) -> the loss that the stage learns by


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a stage. Bytes are those of the fullest rank.

    `activations`: None where they could not be rehearsed; `total` is then a lower bound. `room`: what is left (below 0:
    what is lacking). `largest`: the largest micro-batch that fits, 0 where none does. `host`: bytes of a rank's state
    that wait in its machine's memory. `bubble`: share of the step in which pipeline stages stand idle. `weights`: the
    recipe's `numbers.weights`.
    """

    layout: Layout
    checkpointing: bool
    micro: int
    times: int
    state: Mapping[Tower, StateBytes]
    activations: float | None
    passing: float
    overhead: float
    room: float
    largest: int | None
    time: StepTime | None
    split: Split = WHOLE
    frozen: Frozen = "shard"
    offload: Offload = "none"
    host: float = 0.0
    bubble: float = 0.0
    weights: Format = "fp32"

    @property
    def name(self) -> str:
        """In words, e.g. "fsdp, tensor 8, pipeline 2"."""
        told: list[str] = [self.layout]
        told += [f"tensor {self.split.tensor}"] if self.split.tensor > 1 else []
        told += [f"pipeline {self.split.pipeline}"] if self.split.pipeline > 1 else []
        told += [f"offload {self.offload}"] if self.offload != "none" else []
        told += ["bf16 weights"] if self.weights == "bf16" else []
        return ", ".join(told)

    @property
    def total(self) -> float:
        """Bytes of all kinds."""
        held = sum(each.total for each in self.state.values())
        return held + (self.activations or 0.0) + self.passing + self.overhead

    @property
    def fits(self) -> bool:
        """Whether it fits."""
        return self.room >= 0


@dataclass(frozen=True)
class StageOnGpus:
    """A stage of a recipe, the model frozen by its plan, and the GPUs.

    Attributes:
        make: the model anew, on the meta device, frozen by the stage and in training mode.
        loss: None: nothing can be rehearsed, for the reason `why_not`.
        parallel: how the recipe lays the stage out. cuts: how blocks are cut over tensor ranks; None: they are not.
        held: the format of weights, as `make` makes them. other: the stage with the other format; None: the recipe does
            not go with it. to_other: what to set for it.
    """

    stage: Stage
    world: World
    gpu: Gpu
    half: bool
    make: Callable[[], VLM]
    shape: RowShape | None
    loss: Loss | None
    why_not: str = ""
    parallel: Parallel = field(default_factory=Parallel)
    cuts: Cuts | None = None
    held: Format = "fp32"
    other: Callable[[], StageOnGpus] | None = None
    to_other: tuple[str, ...] = ()
    _seen: dict[tuple[bool, bool, int, int], Rehearsal | None] = field(default_factory=dict)
    _parts: dict[int, VLM] = field(default_factory=dict)

    @cached_property
    def model(self) -> VLM:
        """One to count on."""
        return self.make()

    @property
    def micro(self) -> int:
        """Rows of a micro-batch as the recipe says, at most what the batch gives each rank."""
        share = max(1, self.stage.batch // self.world.size)
        return min(self.stage.micro_batch or share, share)

    def rehearsal(self, layout: Layout, checkpointing: bool, micro: int, tensor: int = 1) -> Rehearsal | None:
        """The two passes of one micro-batch on a rank of `tensor`; None where they cannot be rehearsed."""
        if self.loss is None or self.shape is None:
            return None
        key = (self.casts(layout), checkpointing, micro, tensor)
        if key not in self._seen:
            try:
                self._seen[key] = self._rehearse(*key)
            except (DataDependentOutputException, DynamicOutputShapeException):
                self._seen[key] = None
        return self._seen[key]

    @property
    def grows(self) -> bool:
        """Whether gradients come as activations go: on one GPU, in a step of one micro-batch."""
        return self.world.size == 1 and self.stage.batch <= self.micro

    @cached_property
    def rehearsable(self) -> bool:
        """Whether the model's passes can be run without numbers."""
        return self.rehearsal("ddp", self.stage.gradient_checkpointing, self.micro) is not None

    def cut(self, tensor: int) -> VLM:
        """The model as one of `tensor` ranks holds it, anew. Raises UserError where it does not divide."""
        return narrowed(self.make(), tensor, self.cuts) if self.cuts and tensor > 1 else self.make()

    def part(self, tensor: int) -> VLM:
        """The same, to count on."""
        if tensor not in self._parts:
            self._parts[tensor] = self.cut(tensor)
        return self._parts[tensor]

    def _rehearse(self, casting: bool, checkpointing: bool, micro: int, tensor: int) -> Rehearsal:
        shape, loss = self.shape, self.loss
        assert shape is not None and loss is not None
        half = torch.bfloat16 if self.half else None

        def forward(model: VLM) -> torch.Tensor:
            assert isinstance(model, ComposedVLM)
            model.set_gradient_checkpointing(checkpointing)
            batch = sample(model, shape, micro)
            if self.stage.cache_features:
                cached(batch, model, half or torch.float32)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half and casting):
                return loss(model, batch)

        whole = [tower for tower in self.model.towers if isinstance(self.stage.rule_for(tower), LearnPart)]
        dtype = None if casting else half
        if self.grows:
            return rehearse(self.make(), forward, dtype)
        return rehearse_by_depth(lambda: self.cut(tensor), forward, dtype, whole=whole)

    def activations(self, layout: Layout, checkpointing: bool, micro: int) -> float | None:
        """Bytes of a micro-batch of `micro` rows: a straight line through two rehearsals."""
        first = self.rehearsal(layout, checkpointing, self.micro)
        second = self.rehearsal(layout, checkpointing, 2 * self.micro)
        if first is None or second is None:
            return None
        one, two = (self._beside_state(each, layout, micro) for each in (first, second))
        return one + (two - one) * (micro / self.micro - 1)

    def _beside_state(self, seen: Rehearsal, layout: Layout, micro: int) -> float:
        """Gradients are counted in full as state, and on one GPU they come as activations go."""
        if self.grows and micro >= self.micro:
            grown = sum(each.gradients for each in state_of(self.model, layout, self.world).values())
            return max(0.0, seen.peak - grown)
        return seen.bare

    @cached_property
    def weights(self) -> Weights:
        """Elements by what the backward pass does with them."""
        learning = passed = dead = 0
        behind = self.model.learns("vision")
        for tower in self.model.towers:
            count = [(p.numel(), p.requires_grad) for _, p in self.model.tower_parameters(tower)]
            learning += sum(size for size, learns in count if learns)
            frozen = sum(size for size, learns in count if not learns)
            if tower == "vision" and not behind:
                dead += frozen
            else:
                passed += frozen
        return Weights(learning, passed, dead)

    @property
    def adam(self) -> Adam:
        """What moving a weight takes."""
        return adam_of(self.stage.optimizer.rounding, self.held)

    @property
    def gather(self) -> int:
        """Bytes of an element in which FSDP sends weights."""
        return HALF if "bf16" in (self.parallel.gather, self.held) else SINGLE

    def added(self, layout: Layout) -> int:
        """Bytes of an element in which gradients are added up over ranks: as weights are held, unless FSDP casts."""
        casts = layout in ("fsdp", "hybrid") and self.parallel.gather == "bf16"
        return SINGLE if self.held == "fp32" or casts else HALF

    def wide(self, layout: Layout) -> float:
        """What passes through a rank, over the bytes that it has in half precision."""
        return self.gather / HALF if layout in ("fsdp", "hybrid") else 1.0

    def casts(self, layout: Layout) -> bool:
        """Whether products are cast one by one, where they are not in half precision yet."""
        return autocast(layout) or (layout in ("fsdp", "hybrid") and (self.gather == SINGLE or self.held == "bf16"))

    @property
    def pieces(self) -> int:
        """Blocks that sharded engines gather one by one, and what stands outside them."""
        return 1 + sum(len(self.model.blocks(tower)) for tower in self.model.towers)

    def option(
        self, layout: Layout, checkpointing: bool, micro: int | None = None, *, offload: Offload = "none"
    ) -> Option:
        """The stage run so; `micro` None: as the recipe says, or less where only less fits."""
        frozen, ema = self.parallel.frozen, self.stage.ema is not None
        state = state_of(self.model, layout, self.world, ema=ema, frozen=frozen, offload=offload, adam=self.adam)
        host = self._on_host(layout, offload)
        passing = float(gathered(self.model, layout, self.world, frozen=frozen)) * self.wide(layout)
        fixed = CONTEXT + (CHANNELS if self.world.size > 1 else 0.0)
        held = sum(each.total for each in state.values()) + passing + fixed
        largest = self._largest(layout, checkpointing, self.gpu.memory - held)
        if micro is None:
            micro = self.dividing(min(self.micro, largest or 1)) if largest is not None else self.micro
        acts = self.activations(layout, checkpointing, micro)
        stepping = stepped(self.model.parameters(), layout, self.world, self.adam)
        beside = FRAGMENTS * (acts or 0.0) + max(0.0, stepping - (acts or 0.0) - passing)
        times = math.ceil(self.stage.batch / (micro * self.world.size))
        room = self.gpu.memory - held - (acts or 0.0) - beside
        time = self._time(layout, checkpointing, micro, times, sum(state.values(), StateBytes()), offload)
        beside += fixed
        option = Option(layout, checkpointing, micro, times, state, acts, passing, beside, room, largest, time)
        return replace(option, frozen=frozen, offload=offload, host=host, weights=self.held)

    def _on_host(self, layout: Layout, offload: Offload) -> float:
        """Bytes of a rank's share that wait in the host's memory: gradients there are fp32, as the masters are."""
        if offload == "none":
            return 0.0
        whole, moved = (
            sum(state_of(self.model, layout, self.world, offload=each).values(), StateBytes())
            for each in ("none", offload)
        )
        return whole.total - moved.total + whole.masters - whole.gradients

    def _largest(self, layout: Layout, checkpointing: bool, room: float) -> int | None:
        one, two = (self.activations(layout, checkpointing, rows) for rows in (1, 2))
        if one is None or two is None:
            return None
        left = room / (1 + FRAGMENTS) - one
        return 0 if left < 0 else 1 + int(left / max(1.0, two - one))

    def dividing(self, micro: int, ranks: int | None = None) -> int:
        """The largest micro-batch up to `micro` rows that divides the share of each of `ranks` (None: of all)."""
        share = max(1, self.stage.batch // (ranks or self.world.size))
        return next(rows for rows in range(min(micro, share), 0, -1) if share % rows == 0)

    def _time(
        self, layout: Layout, checkpointing: bool, micro: int, times: int, state: StateBytes, offload: Offload
    ) -> StepTime | None:
        seen = self.rehearsal(layout, checkpointing, self.micro)
        plain = self.rehearsal(layout, False, self.micro)
        if seen is None or plain is None:
            return None
        return step_time(
            layout,
            self.world,
            self.gpu,
            seen,
            state,
            self.weights,
            times=times,
            share=micro / self.micro,  # seconds go with the rows
            useful=useful_flops(plain),
            half=self.half,
            frozen=self.parallel.frozen,
            offload=offload,
            gather=self.gather,
            added=self.added(layout),
            pieces=self.pieces,
            adam=self.adam,
        )
