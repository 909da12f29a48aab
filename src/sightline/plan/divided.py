"""One stage on tensor and pipeline ranks: what the fullest rank holds, and how long a step takes.

The model is rehearsed as a tensor rank holds it, and its depth is shared out to pipeline stages by what blocks cost.
Data-parallel layouts then lie over what is left of the ranks, as they do over all of them elsewhere.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from sightline.models.vlm import VLM
from sightline.plan.devices import Gpu
from sightline.plan.layouts import HALF, Frozen, Layout, World, rank_bytes
from sightline.plan.memory import FUSED, Adam, StateBytes
from sightline.plan.pipeline import Place, balanced, bubble, duration, order, shared_out, under_way
from sightline.plan.sample import RowShape
from sightline.plan.speed import (
    Collective,
    StepTime,
    Weights,
    exchanges,
    reduced,
    ring,
    roofline,
    stepping,
    useful_flops,
)
from sightline.plan.tensor import EXCHANGES, Split
from sightline.plan.trace import OUTSIDE, Rehearsal
from sightline.recipe.schema import Tower


def data_world(world: World, split: Split) -> World:
    """The ranks that are fed different rows, as one of them sees the others.

    Tensor ranks are neighbours; their exchanges with other machines share a machine's link.
    """
    each = max(1, world.each // split.tensor)
    size = world.size // split.size
    inside = min(each, size)
    return World(inside, max(1, size // inside), world.peers, world.link / min(split.tensor, world.each))


@dataclass(frozen=True)
class Division:
    """A stage's model on the ranks of `split`, before data-parallel ranks are thought of.

    Attributes:
        model: as a tensor rank holds it, on the meta device.
        seen, twice: a micro-batch of `rows` rows, and of twice as many, rehearsed on it: bytes are a straight line.
        plain: the whole model's micro-batch of `rows` rows, nothing computed again.
        adam: how weights are moved.
    """

    model: VLM
    split: Split
    seen: Rehearsal
    twice: Rehearsal
    plain: Rehearsal
    rows: int
    shape: RowShape
    checkpointing: bool
    adam: Adam = FUSED
    _states: dict[Any, list[dict[Tower, StateBytes]]] = field(default_factory=dict)

    @cached_property
    def places(self) -> list[Place]:
        """The blocks in the order of the pass."""
        return order(self.model)

    @cached_property
    def counts(self) -> dict[Tower, int]:
        """Blocks of each tower, 1 where there are none."""
        found = Counter(tower for tower, _ in self.places)
        return {"vision": max(1, found["vision"]), "language": max(1, found["language"])}

    @cached_property
    def costs(self) -> list[float]:
        """FLOPs of each block in the order of the pass; what stands outside blocks is with the nearest of them."""
        passes = {tower: self._passes(tower) for tower in self.model.towers}
        found = [self.seen.flops[tower] / self.counts[tower] * passes[tower] for tower, _ in self.places]
        found[self.counts["vision"] - 1] += self.seen.flops["connector"] * passes["connector"]
        found[-1] += self.seen.flops[OUTSIDE] * 3 + self.seen.flops["head"] * 3
        return found

    def _passes(self, tower: Tower) -> int:
        """Forward passes that a tower's step is worth: one alone, with gradients three, recomputed four."""
        if tower == "vision" and not self.model.learns("vision"):
            return 1
        return 4 if self.checkpointing and tower != "connector" else 3

    @cached_property
    def sizes(self) -> list[int]:
        """Blocks of each stage."""
        return balanced(self.costs, self.split.pipeline)

    @cached_property
    def shares(self) -> list[float]:
        """Each stage's share of a micro-batch's time."""
        ends = [sum(self.sizes[: place + 1]) for place in range(len(self.sizes))]
        starts = [0, *ends[:-1]]
        whole = sum(self.costs)
        return [sum(self.costs[start:end]) / whole for start, end in zip(starts, ends, strict=True)]

    @cached_property
    def parts(self) -> list[dict[Tower, list[nn.Parameter]]]:
        """Each stage's parameters by tower."""
        return shared_out(self.model, self.sizes)

    def states(self, layout: Layout, world: World, *, ema: bool, frozen: Frozen) -> list[dict[Tower, StateBytes]]:
        """State bytes of each stage's fullest rank by tower."""
        data = data_world(world, self.split)
        key = (layout, data, ema, frozen)
        if key not in self._states:
            self._states[key] = self._count(layout if data.size > 1 else "one", data, ema, frozen)
        return self._states[key]

    def _count(self, kind: Layout, data: World, ema: bool, frozen: Frozen) -> list[dict[Tower, StateBytes]]:
        held = []
        for stage in self.parts:
            towers = {}
            for tower, parameters in stage.items():
                buffers = [b for _, module in self.model.tower_modules(tower) for b in module.buffers()]
                towers[tower] = rank_bytes(parameters, buffers, kind, data, ema=ema, frozen=frozen, adam=self.adam)
            held.append(towers)
        return held

    def activations(self, stage: int, micro: int, micro_batches: int) -> float:
        """Bytes on a rank of `stage`: what is kept of micro-batches under way, and what one of them needs besides."""
        each, once = self._kept(stage, self.seen), 2 * self._kept(stage, self.seen) - self._kept(stage, self.twice)
        by_row = (each - once) / self.rows
        passing = [max(0.0, seen.bare - sum(seen.kept.values())) for seen in (self.seen, self.twice)]
        working = passing[0] + (passing[1] - passing[0]) * (micro / self.rows - 1)
        return once + by_row * micro * under_way(stage, len(self.sizes), micro_batches) + max(0.0, working)

    def _kept(self, stage: int, seen: Rehearsal) -> float:
        """Bytes that the blocks of `stage` keep between the passes, with what stands beside them."""
        start = sum(self.sizes[:stage])
        here = self.places[start : start + self.sizes[stage]]
        kept = float(sum(seen.kept[tower] / self.counts[tower] for tower, _ in here))
        kept += seen.kept["connector"] if ("vision", self.counts["vision"] - 1) in here else 0.0
        return kept + (seen.kept[OUTSIDE] + seen.kept["head"] if stage == len(self.sizes) - 1 else 0.0)

    @cached_property
    def weights(self) -> Weights:
        """Elements of the stage that has the most to exchange."""
        learning = passed = dead = 0
        for stage in self.parts:
            mine = passing = still = 0
            for tower, parameters in stage.items():
                frozen = sum(p.numel() for p in parameters if not p.requires_grad)
                mine += sum(p.numel() for p in parameters if p.requires_grad)
                if tower == "vision" and not self.model.learns("vision"):
                    still += frozen
                else:
                    passing += frozen
            if (mine, passing + still) > (learning, passed + dead):
                learning, passed, dead = mine, passing, still
        return Weights(learning, passed, dead)

    def between(self, world: World, micro: float, micro_batches: int) -> tuple[Collective, ...]:
        """What tensor ranks and stages tell each other in one step; nothing of it hides behind computation."""
        found = []
        rounds = micro_batches + self.split.pipeline - 1
        if self.split.tensor > 1:
            near = min(self.split.tensor, world.each)
            group = World(near, math.ceil(self.split.tensor / near), world.peers, world.link)
            size = calls = 0.0
            for tower, elements in self._widths(micro).items():
                blocks = max(1.0, self.counts[tower] / self.split.pipeline)
                passes = self._passes(tower) - 1 if self._passes(tower) > 1 else 1  # again forward where recomputed
                calls += EXCHANGES * passes * blocks
                size += EXCHANGES * passes * blocks * elements * HALF
            bucket = size / max(1.0, calls)
            found.append(reduced("all-reduce of activations, tensor", size * rounds, group, bucket))
        if self.split.pipeline > 1:
            far = world.nodes > 1 and self.split.size >= world.each
            wire = World(1, 2, world.peers, world.link / world.each) if far else World(2, 1, world.peers, world.link)
            size = self._widths(micro)["language"] * HALF * 2  # there and back
            found.append(ring("activations between stages", 2 * size * rounds, wire, 2 * rounds))
        return tuple(found)

    def _widths(self, micro: float) -> dict[Tower, float]:
        """Elements that a block of each tower hands on."""
        model: Any = self.model
        language, vision = model.language.config.hidden_size, model.vision.width
        return {"vision": micro * self.shape.patches * vision, "language": micro * self.shape.tokens * language}

    def step(
        self,
        layout: Layout,
        world: World,
        gpu: Gpu,
        *,
        half: bool,
        micro: int,
        times: int,
        frozen: Frozen,
        gather: int,
        added: int,
    ) -> tuple[StepTime, float]:
        """One optimizer step of `times` micro-batches of `micro` rows, and the share of it that is bubble."""
        data = data_world(world, self.split)
        share = micro / self.rows
        forward = roofline(self.seen.forward, gpu, half) * share
        backward = roofline(self.seen.backward, gpu, half) * share
        stages = [part * (forward + backward) for part in self.shares]
        lasts = duration(stages, times)
        weights = self.weights
        held = [sum(towers.values(), StateBytes()) for towers in self.states(layout, world, ema=False, frozen=frozen)]
        dearest = max(held, key=lambda each: each.optimizer)
        optimizer = stepping(dearest, weights, data, gpu, "none", self.adam)
        sent: dict[str, Any] = {"frozen": frozen, "gather": gather, "added": added, "pieces": 1 + max(self.sizes)}
        apart = exchanges(layout, data, weights, times, **sent)
        between = self.between(world, micro, times)
        hidden = lasts if layout != "ddp" else max(stages) * backward / (forward + backward)
        exposed = max(0.0, sum(each.seconds for each in apart) - hidden) + sum(each.seconds for each in between)
        total = lasts + optimizer + exposed
        peak = (gpu.half if half else gpu.single) * self.split.size
        mfu = useful_flops(self.plain) * share * times / (total * peak)
        part = forward / (forward + backward)
        time = StepTime(lasts * part, lasts * (1 - part), optimizer, exposed, (*apart, *between), mfu)
        return time, bubble(stages, times)


def fullest(states: list[dict[Tower, StateBytes]], activations: list[float]) -> int:
    """The stage that needs the most."""
    return max(range(len(states)), key=lambda i: sum(each.total for each in states[i].values()) + activations[i])
