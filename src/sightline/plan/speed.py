"""Seconds of a step: a roofline over every operation of the rehearsal, and what ranks tell each other.

An operation takes as long as its products at the attainable rate, or its bytes at the attainable bandwidth, whichever
is longer. Collectives are rings (2(N-1)/N of the bytes for an all-reduce, (N-1)/N for the other two).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sightline.plan.devices import Gpu
from sightline.plan.layouts import HALF, SINGLE, Frozen, Layout, World, shards
from sightline.plan.memory import FUSED, Adam, StateBytes
from sightline.plan.trace import Rehearsal, Work, total_flops
from sightline.recipe.parallel import Offload

PRODUCTS = 0.65  # of the peak rate that large matrix products reach (cuBLAS bf16 on A100 and H100: 0.6 to 0.75)
MEMORY = 0.8  # of the bandwidth that elementwise kernels reach (STREAM on HBM: 0.8 to 0.9)
WIRES = 0.8  # of a link's rate that NCCL's rings reach (nccl-tests: 0.75 to 0.85 for large messages)
HOP, FAR_HOP = 3.4e-6, 14e-6  # seconds from a GPU to the next of a ring, by NVLink and by a network (NCCL's own model:
# hwLat of the protocol Simple in tuning.cc). A ring passes every GPU, so they add up where there are thousands.
BUCKET = 25e6  # bytes that DDP reduces at a time
HOST = 130e9  # bytes a second that AdamW reaches in a node's own memory: assumed, a third of two sockets' DDR4-3200


@dataclass(frozen=True, slots=True)
class Collective:
    """One kind of exchange: bytes that pass through a rank's wires in one step, and seconds."""

    name: str
    bytes: float
    seconds: float


@dataclass(frozen=True, slots=True)
class StepTime:
    """Seconds of one optimizer step. `exposed`: of its exchanges, what no computation hides."""

    forward: float
    backward: float
    optimizer: float
    exposed: float
    collectives: tuple[Collective, ...]
    mfu: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.forward + self.backward + self.optimizer + self.exposed


@dataclass(frozen=True, slots=True)
class Weights:
    """Elements of the weights: `learning`, `passed` (frozen, gradients pass through them), `dead` (no backward)."""

    learning: int
    passed: int
    dead: int

    @property
    def all(self) -> int:
        """All of them."""
        return self.learning + self.passed + self.dead


def roofline(work: Work, gpu: Gpu, half: bool) -> float:
    """Seconds of `work` on `gpu`."""
    rate, wide = (gpu.half if half else gpu.single) * PRODUCTS, gpu.hbm * MEMORY
    return float(sum(max(flops / rate, size / wide) * times for (flops, size), times in work.items()))


def step_time(
    layout: Layout,
    world: World,
    gpu: Gpu,
    rehearsal: Rehearsal,
    state: StateBytes,
    weights: Weights,
    *,
    times: float,
    useful: float,
    half: bool,
    share: float = 1.0,
    frozen: Frozen = "shard",
    offload: Offload = "none",
    gather: int = HALF,
    added: int = SINGLE,
    pieces: int = 1,
    adam: Adam = FUSED,
) -> StepTime:
    """One optimizer step of `times` micro-batches a rank.

    Args:
        share: rows of a micro-batch over those that were rehearsed.
        useful: FLOPs of the micro-batch that was rehearsed, without what is computed again.
        frozen, offload, adam: as `layouts.rank_bytes`. gather, added, pieces: as `exchanges`.
    """
    forward, backward = (share * roofline(work, gpu, half) for work in (rehearsal.forward, rehearsal.backward))
    optimizer = stepping(state, weights, world, gpu, offload, adam)
    collectives = exchanges(layout, world, weights, times, frozen=frozen, gather=gather, added=added, pieces=pieces)
    if offload == "all":
        fetched = HALF * (2 * weights.all - weights.dead) * times / world.size
        collectives += (Collective("weights from the host", fetched, fetched / (gpu.host * WIRES)),)
    seconds = sum(each.seconds for each in collectives)
    hidden = times * (forward + backward) if shards(layout, world) > 1 else backward
    late = sum(each.seconds for each in collectives if each.name.endswith("after the step"))
    exposed = max(0.0, seconds - late - hidden) + late
    total = times * (forward + backward) + optimizer + exposed
    peak = gpu.half if half else gpu.single
    return StepTime(
        times * forward, times * backward, optimizer, exposed, collectives, times * share * useful / (total * peak)
    )


def stepping(
    state: StateBytes, weights: Weights, world: World, gpu: Gpu, offload: Offload, adam: Adam = FUSED
) -> float:
    """Seconds of AdamW: on the device as long as its bytes take, on the host as its processors and PCIe do."""
    if offload == "none":
        return state.optimizer / adam.state * adam.moved / (gpu.hbm * MEMORY)
    back = HALF * weights.learning / world.size / (gpu.host * WIRES)  # gradients go down during the backward pass
    return weights.learning / world.nodes * FUSED.moved / HOST + back


def exchanges(
    layout: Layout,
    world: World,
    weights: Weights,
    times: float,
    *,
    frozen: Frozen = "shard",
    gather: int = HALF,
    added: int = SINGLE,
    pieces: int = 1,
) -> tuple[Collective, ...]:
    """What a rank sends in one step of `times` micro-batches.

    Args:
        gather: bytes of an element in which FSDP sends weights. added: in which it and DDP add gradients up.
        pieces: blocks that sharded engines gather and reduce one by one.
    """
    if world.size == 1:
        return ()
    learning, whole = weights.learning, weights.all
    again = whole - weights.dead  # gathered once more for the backward pass
    if layout in ("fsdp", "hybrid") and frozen == "replicate":
        whole = again = learning
    calls = pieces * times
    if layout == "ddp":
        return (reduced("all-reduce of gradients", added * learning, world),)
    if layout in ("zero1", "zero2"):
        passes = times if layout == "zero2" else 1
        return (
            ring("reduce-scatter of gradients", HALF * learning * passes, world, pieces * passes),
            ring("all-gather of weights after the step", HALF * learning, world),
        )
    inside = World(world.each, 1, world.peers, world.link)
    if layout == "zero++":  # int8 weights, a copy within the node, int4 gradients (arXiv 2306.10209, table 1)
        return (
            ring("all-gather of weights in int8", whole * times, world, calls),
            ring("all-gather of weights within the node", HALF * again * times, inside, calls),
            ring("all-to-all of gradients in int4", 0.5 * learning * times, world, calls),
        )
    near = inside if layout == "hybrid" else world
    sent, added = (HALF, HALF) if layout == "zero3" else (gather, added)
    found: tuple[Collective, ...] = (
        ring("all-gather of weights", sent * (whole + again) * times, near, 2 * calls),
        ring("reduce-scatter of gradients", added * learning * times, near, calls),
    )
    if layout == "hybrid":
        across = World(1, world.nodes, world.peers, world.link / world.each)  # each GPU has its share of the link
        found += (reduced("all-reduce of shards across nodes", added * learning / world.each * times, across),)
    return found


def ring(name: str, size: float, world: World, calls: float = 1) -> Collective:
    """`size` bytes in so many exchanges around a ring: (N - 1) / N of them pass through each rank, and every GPU."""
    passing = size * (world.size - 1) / world.size
    hops = (world.size - world.nodes) * HOP + (world.nodes * FAR_HOP if world.nodes > 1 else 0.0)
    return Collective(name, passing, passing / (_slowest(world) * WIRES) + calls * hops)


def reduced(name: str, size: float, world: World, bucket: float = BUCKET) -> Collective:
    """`size` bytes summed over ranks, bucket by bucket: as much as two rings pass, over trees between machines."""
    passing = 2 * size * (world.size - 1) / world.size
    hops = 2 * (math.log2(world.nodes) * FAR_HOP + (world.each - 1) * HOP)
    return Collective(name, passing, passing / (_slowest(world) * WIRES) + math.ceil(size / bucket) * hops)


def _slowest(world: World) -> float:
    return world.peers if world.nodes == 1 else min(world.peers, world.link) if world.each > 1 else world.link


def useful_flops(rehearsal: Rehearsal) -> float:
    """FLOPs of both passes of a rehearsal in which nothing is computed again."""
    return total_flops(rehearsal.forward) + total_flops(rehearsal.backward)
