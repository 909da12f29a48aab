"""What reaches each layer, and where in a stack of them a gradient is lost on its way back: in one, or in each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from math import hypot, isfinite

from sightline.guard.evidence.steps import ParameterSeen, StepSeen

FEWEST = 3  # layers: with two there is no telling one from all
STEEP = 30.0  # times, across one layer: a stack of sigmoids loses 4 to 10 at each
SMALL = 64  # elements: gates, temperatures and short biases say nothing of a layer
EACH = 3.0  # times, at each layer: healthy stacks lose less than this over their whole depth, or little more

Layers = dict[str, tuple[float, float]]  # name -> root mean square of its gradient, norm of update over weights


@lru_cache(maxsize=64)  # the same steps are asked for again and again
def layers_of(step: StepSeen, tower: str) -> Layers:
    """The layers (modules) that learn and have a gradient that is finite and not 0."""
    parts: dict[str, list[ParameterSeen]] = {}
    for p in step.tower(tower):
        if p.trainable and p.optimized and p.grad_norm is not None:
            module, _, own = p.name.rpartition(".")
            parts.setdefault(p.name if not module or own.isdigit() else module, []).append(p)
    found = {}
    for name, held in parts.items():
        size, gradient = sum(p.numel for p in held), hypot(*(p.grad_norm or 0.0 for p in held))
        weight, update = hypot(*(p.weight_norm for p in held)), hypot(*(p.update_norm for p in held))
        if size >= SMALL and gradient and weight and isfinite(gradient) and isfinite(update / weight):
            found[name] = (gradient / size**0.5, update / weight)
    return found


def lost_in(gradients: Mapping[str, float]) -> str:
    """The end of a sentence: which layer most of a gradient is lost in, or how much is lost at each; else empty.

    Args:
        gradients: name of a module -> root mean square of its gradient. Layers are read off the names: in
            "body.layer.6.mlp" it is number 6 of "body.layer". The stack with most layers is looked at.
    """
    path, stack = max(_stacks(gradients).items(), key=lambda one: len(one[1]), default=("", {}))
    order = sorted(stack)
    if len(order) < FEWEST or not all(stack.values()):
        return ""
    falls = {upper: stack[upper] / stack[lower] for lower, upper in pairwise(order)}
    worst = max(falls, key=lambda number: falls[number])
    whole = stack[order[-1]] / stack[order[0]]
    if falls[worst] >= max(STEEP, whole**0.5):
        return f"; on the way back it is lost in {path}{worst}, {falls[worst]:.1g} times"
    each = whole ** (1 / (len(order) - 1))
    named = f"{len(order)} layers {path}*" if path else f"{len(order)} layers"
    return f"; on the way back each of the {named} loses {each:.2g} times" if each >= EACH else ""


def _stacks(gradients: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Each numbered stack by its name with the dot behind it: number -> the strongest gradient in that layer."""
    stacks: dict[str, dict[int, float]] = defaultdict(dict)
    for name, gradient in gradients.items():
        for found in re.finditer(r"(?<![^.])\d+(?![^.])", name):
            stack, number = stacks[name[: found.start()]], int(found[0])
            stack[number] = max(stack.get(number, 0.0), gradient)
    return stacks
