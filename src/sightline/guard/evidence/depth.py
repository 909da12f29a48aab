"""Where in a stack of numbered layers a gradient is lost on its way back: in one of them, or a little in each."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise

FEWEST = 3  # layers: with two there is no telling one from all
STEEP = 30.0  # times, across one layer: a stack of sigmoids loses 4 to 10 at each
EACH = 3.0  # times, at each layer: healthy stacks lose less than this over their whole depth, or little more


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
