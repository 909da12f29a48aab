"""Layouts over several GPUs: the bytes of state that the fullest rank holds, by tower. Arithmetic on parameter shapes.

What each engine holds of a model whose recipe says fp32 weights and a bf16 (or fp16) forward pass. Where it says bf16
weights, "as held" is bf16, and averages are fp32 all the same; ZeRO has formats of its own.

| layout | weights | gradients | optimizer |
|---|---|---|---|
| one, ddp | whole, as held | whole, as held | whole |
| fsdp (FSDP2), hybrid (within a node) | as held, sharded by rows | sharded, as held | sharded |
| zero1, zero2 (DeepSpeed bf16) | whole, bf16 | whole; zero2: sharded, bf16 | masters and moments, fp32, sharded |
| zero3 | bf16, sharded, small ones whole, too | sharded, bf16 | masters and moments, fp32, sharded |
| zero++ | zero3's, and a second copy in bf16, sharded within the node | as zero3 | as zero3 |

Frozen weights have no gradients, no masters and no moments in any of them; ZeRO-1 and 2 never shard them, and FSDP does
where the recipe says so. Offloaded, the optimizer's part and its gradients wait in the host's memory; with `all`, the
weights too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, get_args

from torch import Tensor

from sightline.models.vlm import VLM
from sightline.plan.memory import FUSED, STEP_BYTES, Adam, StateBytes, distinct, size_of, tensor_bytes
from sightline.recipe.parallel import Offload
from sightline.recipe.schema import Tower

Frozen = Literal["replicate", "shard"]
Layout = Literal["one", "ddp", "fsdp", "hybrid", "zero1", "zero2", "zero3", "zero++"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
HALF, SINGLE = 2, 4  # bytes of an element
GATHERED = 100_000  # elements of a weight up to which ZeRO-3 keeps it whole, too (param_persistence_threshold)


@dataclass(frozen=True, slots=True)
class World:
    """`nodes` machines of `each` GPUs; bytes a second between GPUs of a node, and of a node's link to the others."""

    each: int
    nodes: int
    peers: float
    link: float

    @property
    def size(self) -> int:
        """GPUs in all."""
        return self.each * self.nodes


def layouts_of(world: World) -> tuple[Layout, ...]:
    """Those that mean something on so many GPUs."""
    if world.size == 1:
        return ("one",)
    several = world.nodes > 1 and world.each > 1
    return tuple(each for each in LAYOUTS if each != "one" and (several or each not in ("hybrid", "zero++")))


def offloads_of(layout: Layout) -> tuple[Offload, ...]:
    """What an engine can move to the host's memory."""
    if layout in ("zero3", "zero++"):
        return ("optimizer", "all")
    return ("optimizer",) if layout in ("zero1", "zero2") else ()


def shards(layout: Layout, world: World) -> int:
    """Ranks among which weights are shared out."""
    return {"fsdp": world.size, "zero3": world.size, "zero++": world.size, "hybrid": world.each}.get(layout, 1)


def autocast(layout: Layout) -> bool:
    """Whether weights stay fp32 and are cast operation by operation; else the engine holds them in half precision."""
    return layout in ("one", "ddp")


def state_of(
    model: VLM,
    layout: Layout,
    world: World,
    *,
    ema: bool = False,
    frozen: Frozen = "shard",
    offload: Offload = "none",
    adam: Adam = FUSED,
) -> dict[Tower, StateBytes]:
    """State bytes of each tower of `model` on the fullest rank (the first), frozen by the stage's plan."""
    planned = {}
    for tower in model.towers:
        buffers = [buffer for _, module in model.tower_modules(tower) for buffer in module.buffers()]
        parameters = [parameter for _, parameter in model.tower_parameters(tower)]
        told: dict[str, Any] = {"ema": ema, "frozen": frozen, "offload": offload, "adam": adam}
        planned[tower] = rank_bytes(parameters, buffers, layout, world, **told)
    return planned


def rank_bytes(
    parameters: Iterable[Tensor],
    buffers: Iterable[Tensor],
    layout: Layout,
    world: World,
    *,
    ema: bool = False,
    frozen: Frozen = "shard",
    offload: Offload = "none",
    adam: Adam = FUSED,
) -> StateBytes:
    """State bytes of `parameters` on the fullest rank's device.

    Args:
        frozen: whether FSDP shards what does not learn. offload: what ZeRO keeps in the host's memory instead.
        adam: how weights are moved, where not by ZeRO.
    """
    if layout in ("one", "ddp"):
        return tensor_bytes(parameters, buffers, ema=ema, adam=adam)
    every = distinct(parameters)
    held = sum(size_of(buffer) for buffer in distinct(buffers))
    learning = [parameter for parameter in every if parameter.requires_grad]
    if layout in ("fsdp", "hybrid"):
        ranks = shards(layout, world)
        shares = [_rows(parameter, ranks) for parameter in learning]
        mine = sum(share * parameter.element_size() for share, parameter in zip(shares, learning, strict=True))
        apart = ranks if frozen == "shard" else 1
        rest = sum(_rows(p, apart) * p.element_size() for p in every if not p.requires_grad)
        moments = adam.state * sum(shares) + STEP_BYTES * len(learning)
        return StateBytes(mine + rest, held, mine, moments, 0, mine if ema else 0)
    return _zero_bytes(every, held, layout, world, ema=ema, offload=offload)


def _zero_bytes(
    every: list[Tensor], held: int, layout: Layout, world: World, *, ema: bool, offload: Offload
) -> StateBytes:
    """DeepSpeed's optimizer moves one flat piece of each group: of what is decayed, and of what is not.

    Between two backward passes. ZeRO-2's gradients are those of the first rank: a weight that two ranks share out is
    kept whole by both. Checked against what processes hold (`tests/plan/test_zero_state.py`).
    """
    learning = [parameter for parameter in every if parameter.requires_grad]
    kinds = [[p for p in learning if p.ndim > 1], [p for p in learning if p.ndim <= 1]]
    groups = [[parameter.numel() for parameter in kind] for kind in kinds if kind]
    frozen = sum(parameter.numel() for parameter in every) - sum(map(sum, groups))
    small = 0
    if layout in ("zero3", "zero++"):
        share = gradients = sum(math.ceil(count / world.size) for group in groups for count in group)
        small = sum(p.numel() for p in every if p.numel() <= GATHERED)
        weights = small + sum(math.ceil(parameter.numel() / world.size) for parameter in every)
    else:
        shares = [math.ceil(sum(group) / (2 * world.size)) * 2 for group in groups]
        weights, share = frozen + world.size * sum(shares), sum(shares)
        gradients = sum(map(sum, groups))
        if layout == "zero2":
            pairs = zip(groups, shares, strict=True)
            gradients = sum(_begun(group, own) for group, own in pairs)
    if offload == "all":
        weights = small
    if layout == "zero++":  # hpZ: what the backward pass gathers within the node (arXiv 2306.10209, section 3.2)
        weights += sum(math.ceil(parameter.numel() / world.each) for parameter in every)
    if offload != "none":
        return StateBytes(weights=HALF * weights, buffers=held)
    optimizer = 2 * SINGLE * share + STEP_BYTES * len(groups)
    average = share * SINGLE if ema else 0
    return StateBytes(HALF * weights, held, HALF * gradients, optimizer, SINGLE * share, average)


def _begun(counts: list[int], share: int) -> int:
    """Elements of the weights that begin within the first `share` of all of them, one after the other."""
    starts = accumulate(counts, initial=0)
    return sum(count for start, count in zip(starts, counts, strict=False) if start < share)


def gathered(model: VLM, layout: Layout, world: World, *, frozen: Frozen = "shard") -> int:
    """Bytes of whole weights and gradients that pass through a rank: two blocks at work, one being reduced."""
    if shards(layout, world) == 1:
        return 0
    held = {id(p) for p in model.parameters() if not p.requires_grad and frozen == "replicate"}
    held = held if layout in ("fsdp", "hybrid") else set()
    each = (block.parameters() for tower in model.towers for block in model.blocks(tower))
    blocks = [sum(p.numel() for p in parameters if id(p) not in held) for parameters in each]
    inside = {id(p) for tower in model.towers for block in model.blocks(tower) for p in block.parameters()}
    beside = (p for p in model.parameters() if id(p) not in inside and id(p) not in held)
    outside = sum(p.numel() for p in beside)  # embeddings: gathered as one
    largest = max(blocks, default=0)
    learns = any(p.requires_grad for p in model.parameters())
    return HALF * (2 * largest + outside) + (HALF * largest if learns else 0)


def stepped(parameters: Iterable[Tensor], layout: Layout, world: World, adam: Adam) -> int:
    """Bytes that the optimizer makes of a rank's largest weight, and gives back, when activations are gone."""
    learning = [_rows(p, shards(layout, world)) for p in parameters if p.requires_grad]
    return adam.passing * max(learning, default=0)


def bubble(stages: int, micro_batches: int) -> float:
    """Share of a step that a 1F1B pipeline stands idle (Narayanan et al. 2021, arXiv 2104.04473, section 2.2)."""
    return (stages - 1) / (micro_batches + stages - 1)


def _rows(parameter: Tensor, ranks: int) -> int:
    """Elements that the first rank holds: FSDP2 shards by rows and pads every rank's shard to the first one's size."""
    if parameter.ndim == 0:
        return 1
    return math.ceil(parameter.shape[0] / ranks) * (parameter.numel() // max(1, parameter.shape[0]))
