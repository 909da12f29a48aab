"""Pipeline parallelism planned: where the depth is cut, what each stage holds, how long a step takes (1F1B).

Narayanan et al. 2021, arXiv 2104.04473, section 2.2: every stage does one forward and one backward pass in turn, so
that stage i of p has at most p - i micro-batches under way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from torch import nn

from sightline.errors import UserError
from sightline.models.vlm import VLM
from sightline.recipe.schema import Tower

BEFORE = ("embed", "pre_layrnorm", "project_in", "wte", "wpe")  # in names of what a tower's first block reads
Place = tuple[Tower, int]  # a tower and the number of its block


def order(model: VLM) -> list[Place]:
    """The blocks as a row passes through them: the vision tower's, then the language tower's."""
    towers: tuple[Tower, ...] = ("vision", "language")
    return [(tower, number) for tower in towers for number in range(len(model.blocks(tower)))]


def balanced(costs: Sequence[float], stages: int) -> list[int]:
    """How many of the pieces in a row each stage takes, so that the dearest stage is as cheap as can be.

    Raises:
        UserError: fewer pieces than stages.
    """
    if stages > len(costs):
        what = f"{len(costs)} blocks cannot be shared out to {stages} pipeline stages"
        raise UserError(what, where="parallel.pipeline", fix=f"set it to {len(costs)} at most")
    sums = [0.0, *accumulate(costs)]
    best: dict[tuple[int, int], tuple[float, int]] = {(0, 0): (0.0, 0)}  # (pieces, stages) -> (dearest, last cut)
    for count in range(1, stages + 1):
        for end in range(count, len(costs) - (stages - count) + 1):
            choices = (
                (max(best[start, count - 1][0], sums[end] - sums[start]), start)
                for start in range(count - 1, end)
                if (start, count - 1) in best
            )
            best[end, count] = min(choices)
    sizes, end = [], len(costs)
    for count in range(stages, 0, -1):
        start = best[end, count][1]
        sizes.append(end - start)
        end = start
    return sizes[::-1]


def shared_out(model: VLM, sizes: Sequence[int]) -> list[dict[Tower, list[nn.Parameter]]]:
    """The parameters of each stage by tower. What stands outside blocks goes with the nearest of them.

    Embeddings of a tower go to the stage of its first block, its output layers and norms to that of its last one; the
    connector and a head to where vision ends and the last stage. A tied output layer is on both ends.
    """
    stage_of = {place: stage for stage, place in _numbered(order(model), sizes)}
    found: list[dict[Tower, list[nn.Parameter]]] = [{tower: [] for tower in model.towers} for _ in sizes]
    last, tied = len(sizes) - 1, _tied(model)
    for tower in model.towers:
        blocks = model.blocks(tower) if tower in ("vision", "language") else []
        inside = {id(p): number for number, block in enumerate(blocks) for p in block.parameters()}
        first = stage_of.get((tower, 0), last)
        end = stage_of.get((tower, len(blocks) - 1), last)
        if tower == "connector":
            vision = len(model.blocks("vision"))
            first = end = stage_of.get(("vision", vision - 1), 0)
        for name, parameter in model.tower_parameters(tower):
            if id(parameter) in inside:
                stages = {stage_of[tower, inside[id(parameter)]]}
            elif any(word in name for word in BEFORE):
                stages = {first, end} if id(parameter) in tied else {first}
            else:
                stages = {end}
            for stage in stages:
                found[stage][tower].append(parameter)
    return found


def under_way(stage: int, stages: int, micro_batches: int) -> int:
    """Micro-batches whose activations a stage holds at most, stage 0 the first."""
    return min(micro_batches, stages - stage)


def duration(costs: Sequence[float], micro_batches: int) -> float:
    """Seconds of so many micro-batches through stages that take `costs` for one (both passes).

    The first goes through all stages, and each further one waits for the dearest. With equal stages this is
    (m + p - 1) times a stage, of which the share (p - 1) / (m + p - 1) is the bubble.
    """
    return sum(costs) + (micro_batches - 1) * max(costs)


def bubble(costs: Sequence[float], micro_batches: int) -> float:
    """Share of a step in which a stage stands idle, over all stages."""
    busy = micro_batches * sum(costs) / len(costs)
    whole = duration(costs, micro_batches)
    return 1 - busy / whole if whole and not math.isinf(whole) else 0.0


def _numbered(places: Sequence[Place], sizes: Sequence[int]) -> list[tuple[int, Place]]:
    stages = [stage for stage, size in enumerate(sizes) for _ in range(size)]
    return list(zip(stages, places, strict=True))


def _tied(model: VLM) -> set[int]:
    """Ids of the parameters that are both token embeddings and output layer."""
    language: Any = getattr(model, "language", None)
    ends = [language.get_input_embeddings(), language.get_output_embeddings()] if language is not None else []
    table, head = ({id(p) for p in end.parameters()} if end is not None else set() for end in ends or (None, None))
    return table & head
