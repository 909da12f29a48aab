"""Which layout for a stage: every one that its GPUs allow, those that fit and are fastest first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sightline.errors import UserError
from sightline.plan.divided import Division, data_world, fullest
from sightline.plan.layouts import LAYOUTS, Layout, World, gathered, layouts_of, offloads_of, state_of, stepped
from sightline.plan.memory import StateBytes
from sightline.plan.pipeline import order
from sightline.plan.stage import CHANNELS, CONTEXT, FRAGMENTS, Option, StageOnGpus
from sightline.plan.tensor import WHOLE, Split

MOST_GPUS = 4096  # that are tried
ALIKE = 1.02  # times that a plan does not tell apart
STAGES = (1, 2, 4, 8)  # pipeline stages that are tried
SHOWN = 6  # of the options with tensor or pipeline ranks: there are dozens
DATA: tuple[Layout, ...] = ("fsdp", "hybrid")  # what is tried beside tensor ranks


def options(found: StageOnGpus) -> list[Option]:
    """Every layout, with and without checkpointing; those that fit first, the fastest of them first.

    Tensor and pipeline ranks are tried on several machines, or where nothing else fits; then weights in bf16. ZeRO is
    planned with its own formats whatever the recipe says of weights. Where nothing can be rehearsed: as the recipe
    recomputes, the plainest layout first.
    """
    # Its engine takes one backward pass for each forward pass: neither losses over pairs nor attacks.
    taken = not isinstance(found.stage.objective, dict) and found.stage.adversarial is None
    zero = [layout for layout in layouts_of(found.world) if layout.startswith("zero")]
    engine = found.other() if found.held == "bf16" and found.other else found
    every = _plain(found, [layout for layout in layouts_of(found.world) if layout not in zero])
    every += _plain(engine, zero if taken else [])
    again = found.stage.gradient_checkpointing or not any(each.fits for each in every)
    for layout in zero if taken else ():
        every += [engine.option(layout, again, offload=offload) for offload in offloads_of(layout)]
    if found.world.size > 1 and (found.world.nodes > 1 or not any(each.fits for each in every)):
        every += _best(split_options(found))
    if found.held == "fp32" and found.other and not any(each.fits for each in every):
        narrow = found.other()
        tried = _plain(narrow, [layout for layout in layouts_of(found.world) if layout not in zero])
        tried += _best(split_options(narrow)) if found.world.size > 1 else []
        every += [each for each in tried if each.fits]
    fastest = min((each.time.total for each in every if each.fits and each.time), default=0.0)

    def rank(each: Option) -> tuple[bool, float, float]:
        plain = LAYOUTS.index(each.layout) + each.split.size + len(LAYOUTS) * (each.offload != "none")
        if not each.fits:
            return True, 0.0, -each.room
        if each.time is None:
            return False, 0.0, float(plain)
        slower = each.time.total / fastest  # what is as good as equal is settled by simplicity, then by room
        return False, 0.0 if slower < ALIKE else slower, float(plain)

    return sorted(every, key=rank)


def _plain(found: StageOnGpus, layouts: Sequence[Layout]) -> list[Option]:
    ways = (False, True) if found.rehearsable else (found.stage.gradient_checkpointing,)
    return [found.option(layout, again) for layout in layouts for again in ways]


def as_written(found: StageOnGpus) -> Option:
    """What the trainer does with the recipe as it is.

    Raises:
        UserError: a layout that does not multiply to the GPUs, or that the model does not divide into.
    """
    parallel, again = found.parallel, found.stage.gradient_checkpointing
    parallel.sizes(found.world.size, found.world.each)
    if found.world.size == 1:
        return found.option("one", again, found.micro)
    split = Split(parallel.tensor, parallel.pipeline)
    if split == WHOLE:
        return found.option(parallel.kind, again, found.micro, offload=parallel.offload)
    option = split_option(found, parallel.kind, split, again)
    if option is None:
        return found.option("ddp", again, found.micro)  # state alone could be told, and not of a part
    return option


def split_options(found: StageOnGpus, pipelined: tuple[Layout, ...] = ("ddp",)) -> list[Option]:
    """Tensor ranks within a machine, pipeline stages over all of them, all blocks computed again.

    Args:
        pipelined: what is tried beside pipeline stages; the trainer runs them with whole copies alone.
    """
    told = []
    tensors = [size for size in (1, 2, 4, 8) if found.world.each % size == 0]
    for split in (Split(tensor, stages) for tensor in tensors for stages in STAGES):
        ranks, rest = divmod(found.world.size, split.size)
        if split == WHOLE or rest or not ranks or found.stage.batch % ranks:
            continue
        beside = DATA if split.pipeline == 1 else pipelined
        for layout in beside if ranks > 1 else ("ddp",):
            if layout == "hybrid" and data_world(found.world, split).nodes == 1:
                continue
            try:
                option = split_option(found, layout, split, checkpointing=True)
            except UserError:  # heads or blocks that do not divide: no such option
                continue
            told += [option] if option is not None else []
    return told


def _best(split: list[Option]) -> list[Option]:
    """The fastest of those that fit, and of those that do not what lacks least."""
    fitting = sorted((o for o in split if o.fits and o.time), key=lambda o: o.time.total if o.time else 0.0)
    return fitting[:SHOWN] or sorted(split, key=lambda o: -o.room)[:SHOWN]


def split_option(found: StageOnGpus, layout: Layout, split: Split, checkpointing: bool) -> Option | None:
    """The stage on tensor and pipeline ranks, with the micro-batch that makes it fastest; None: not rehearsed.

    Raises:
        UserError: heads, widths or blocks that do not divide.
    """
    if found.cuts is None and split.tensor > 1:
        return None
    seen, twice = (
        found.rehearsal(layout, checkpointing, rows, split.tensor) for rows in (found.micro, 2 * found.micro)
    )
    plain = found.rehearsal(layout, False, found.micro)
    if seen is None or twice is None or plain is None or found.shape is None or not order(found.model):
        return None
    told = (found.micro, found.shape, checkpointing, found.adam)
    division = Division(found.part(split.tensor), split, seen, twice, plain, *told)
    ranks = data_world(found.world, split).size
    rows = {found.dividing(micro, ranks) for micro in (1, 2, 4, 8, found.micro)}
    every = [_split(found, division, layout, micro, ranks) for micro in sorted(rows)]
    fitting = [option for option in every if option.fits]
    if fitting:
        best = min(fitting, key=lambda option: option.time.total if option.time else math.inf)
        return replace(best, largest=max(option.micro for option in fitting))
    return max(every, key=lambda option: option.room)


def _split(found: StageOnGpus, division: Division, layout: Layout, micro: int, ranks: int) -> Option:
    times = found.stage.batch // (micro * ranks)
    frozen, data = found.parallel.frozen, data_world(found.world, division.split)
    states = division.states(layout, found.world, ema=found.stage.ema is not None, frozen=frozen)
    acts = [division.activations(stage, micro, times) for stage in range(division.split.pipeline)]
    place = fullest(states, acts)
    passing = gathered(division.model, layout, data, frozen=frozen) / division.split.pipeline if ranks > 1 else 0.0
    passing *= found.wide(layout)
    overhead = CONTEXT + CHANNELS + FRAGMENTS * acts[place]
    learning = (parameter for parameters in division.parts[place].values() for parameter in parameters)
    overhead += max(0.0, stepped(learning, layout, data, found.adam) - acts[place] - passing)
    held = sum(states[place].values(), StateBytes()).total + acts[place] + passing + overhead
    told: dict[str, Any] = {
        "half": found.half,
        "micro": micro,
        "times": times,
        "frozen": frozen,
        "gather": found.gather,
        "added": found.added(layout),
    }
    time, idle = division.step(layout, found.world, found.gpu, **told)
    return Option(
        layout,
        division.checkpointing,
        micro,
        times,
        states[place],
        acts[place],
        passing,
        overhead,
        found.gpu.memory - held,
        None,
        time,
        division.split,
        frozen,
        bubble=idle,
        weights=found.held,
    )


def enough(found: StageOnGpus) -> int | None:
    """How many such GPUs would hold the stage under FSDP, one row at a time, all blocks computed again."""
    acts = found.activations("fsdp", True, 1) or 0.0
    size = 2 * found.world.size
    while size <= MOST_GPUS:
        wider = World(min(size, 8), math.ceil(size / 8), found.world.peers, found.world.link)
        state = sum(each.total for each in state_of(found.model, "fsdp", wider, adam=found.adam).values())
        passing = gathered(found.model, "fsdp", wider)
        if state + passing + CONTEXT + CHANNELS + (1 + FRAGMENTS) * acts <= found.gpu.memory:
            return size
        size *= 2
    return None
