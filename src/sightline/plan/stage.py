"""One stage on many GPUs: for each layout what a rank holds, whether it fits, and how long a step takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException

from sightline.models.composed import ComposedVLM
from sightline.models.vlm import VLM
from sightline.plan.depth import rehearse_by_depth
from sightline.plan.devices import GIB, Gpu
from sightline.plan.layouts import LAYOUTS, Layout, World, autocast, gathered, layouts_of, state_of
from sightline.plan.memory import StateBytes
from sightline.plan.sample import RowShape, cached, sample
from sightline.plan.speed import StepTime, Weights, step_time, useful_flops
from sightline.plan.trace import Rehearsal, rehearse
from sightline.recipe.schema import LearnPart, Stage, Tower

CONTEXT = 0.6 * GIB  # CUDA's context, cuBLAS' workspaces, torch's kernels: 0.4 to 0.8 GiB by nvidia-smi on Hopper
CHANNELS = 0.7 * GIB  # NCCL's buffers, where there is more than one rank
MOST_GPUS = 4096  # that are tried
ALIKE = 1.02  # times that a plan does not tell apart
FRAGMENTS = 0.05  # of activations: what the caching allocator holds in pieces too small to use

Loss = Callable[[VLM, object], torch.Tensor]  # (model, batch) -> the loss that the stage learns by


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a stage. Bytes are those of the fullest rank.

    `activations`: None where they could not be rehearsed; `total` is then a lower bound. `room`: what is left (below 0:
    what is lacking). `largest`: the largest micro-batch that fits, 0 where none does.
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
    """

    stage: Stage
    world: World
    gpu: Gpu
    half: bool
    make: Callable[[], VLM]
    shape: RowShape | None
    loss: Loss | None
    why_not: str = ""
    _seen: dict[tuple[bool, bool, int], Rehearsal | None] = field(default_factory=dict)

    @cached_property
    def model(self) -> VLM:
        """One to count on."""
        return self.make()

    @property
    def micro(self) -> int:
        """Rows of a micro-batch as the recipe says, at most what the batch gives each rank."""
        share = max(1, self.stage.batch // self.world.size)
        return min(self.stage.micro_batch or share, share)

    def rehearsal(self, layout: Layout, checkpointing: bool, micro: int) -> Rehearsal | None:
        """The two passes of one micro-batch; None where they cannot be rehearsed."""
        if self.loss is None or self.shape is None:
            return None
        key = (autocast(layout), checkpointing, micro)
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
        return self.rehearsal(self.as_layout, self.stage.gradient_checkpointing, self.micro) is not None

    @property
    def as_layout(self) -> Layout:
        """What the trainer does now: every rank holds all."""
        return "one" if self.world.size == 1 else "ddp"

    def _rehearse(self, casting: bool, checkpointing: bool, micro: int) -> Rehearsal:
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
        return rehearse_by_depth(self.make, forward, dtype, whole=whole)

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

    def option(self, layout: Layout, checkpointing: bool, micro: int | None = None) -> Option:
        """The stage run so; `micro` None: as the recipe says, or less where only less fits."""
        state = state_of(self.model, layout, self.world, ema=self.stage.ema is not None)
        passing = float(gathered(self.model, layout, self.world))
        fixed = CONTEXT + (CHANNELS if self.world.size > 1 else 0.0)
        held = sum(each.total for each in state.values()) + passing + fixed
        largest = self._largest(layout, checkpointing, self.gpu.memory - held)
        if micro is None:
            micro = self._dividing(min(self.micro, largest or 1)) if largest is not None else self.micro
        acts = self.activations(layout, checkpointing, micro)
        fragments = FRAGMENTS * (acts or 0.0)
        times = math.ceil(self.stage.batch / (micro * self.world.size))
        room = self.gpu.memory - held - (acts or 0.0) - fragments
        time = self._time(layout, checkpointing, micro, times, sum(state.values(), StateBytes()))
        return Option(layout, checkpointing, micro, times, state, acts, passing, fixed + fragments, room, largest, time)

    def _largest(self, layout: Layout, checkpointing: bool, room: float) -> int | None:
        one, two = (self.activations(layout, checkpointing, rows) for rows in (1, 2))
        if one is None or two is None:
            return None
        left = room / (1 + FRAGMENTS) - one
        return 0 if left < 0 else 1 + int(left / max(1.0, two - one))

    def _dividing(self, micro: int) -> int:
        share = max(1, self.stage.batch // self.world.size)
        return next(rows for rows in range(min(micro, share), 0, -1) if share % rows == 0)

    def _time(self, layout: Layout, checkpointing: bool, micro: int, times: int, state: StateBytes) -> StepTime | None:
        seen = self.rehearsal(layout, checkpointing, self.micro)
        plain = self.rehearsal(layout, False, self.micro)
        if seen is None or plain is None:
            return None
        share = micro / self.micro  # seconds go with the rows
        useful = useful_flops(plain) * share
        return step_time(
            layout,
            self.world,
            self.gpu,
            seen,
            state,
            self.weights,
            times=times * share,
            useful=useful / share,
            half=self.half,
        )

    def options(self) -> list[Option]:
        """Every layout, with and without checkpointing; those that fit first, the fastest of them first.

        Where nothing can be rehearsed: as the recipe recomputes, the plainest layout first.
        """
        ways = (False, True) if self.rehearsable else (self.stage.gradient_checkpointing,)
        every = [self.option(layout, again) for layout in layouts_of(self.world) for again in ways]
        fastest = min((each.time.total for each in every if each.fits and each.time), default=0.0)

        def rank(each: Option) -> tuple[bool, float, float]:
            if not each.fits:
                return True, 0.0, -each.room
            if each.time is None:
                return False, 0.0, float(LAYOUTS.index(each.layout))
            slower = each.time.total / fastest  # what is as good as equal is settled by simplicity, then by room
            return False, 0.0 if slower < ALIKE else slower, float(LAYOUTS.index(each.layout))

        return sorted(every, key=rank)

    def enough(self) -> int | None:
        """How many such GPUs would hold the stage under FSDP, one row at a time, all blocks computed again."""
        acts = self.activations("fsdp", True, 1) or 0.0
        size = 2 * self.world.size
        while size <= MOST_GPUS:
            wider = World(min(size, 8), math.ceil(size / 8), self.world.peers, self.world.link)
            state = sum(each.total for each in state_of(self.model, "fsdp", wider).values())
            passing = gathered(self.model, "fsdp", wider)
            if state + passing + CONTEXT + CHANNELS + (1 + FRAGMENTS) * acts <= self.gpu.memory:
                return size
            size *= 2
        return None

    def as_written(self) -> Option:
        """What the trainer would do now: every rank holds all, micro-batches as the recipe says."""
        return self.option(self.as_layout, self.stage.gradient_checkpointing, self.micro)
