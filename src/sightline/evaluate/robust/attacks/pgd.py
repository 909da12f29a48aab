"""Projected gradient descent (Madry et al. 2018, arXiv 1706.06083, section 2.1): many small steps within the bound."""

from __future__ import annotations

from torch import Tensor

from sightline.evaluate.robust.attacks.norms import Norm, start, steepest, within
from sightline.evaluate.robust.attacks.target import Target, worst

REACH = 2.5  # the steps together go so many times the bound: from any start to any border, and along it


def step_rule(epsilon: float, steps: int) -> float:
    """The step size where none is given (as in Madry et al., section 5)."""
    return REACH * epsilon / steps


def pgd(
    target: Target,
    epsilon: float,
    norm: Norm = "linf",
    *,
    steps: int = 10,
    step_size: float | None = None,
    random_start: bool = True,
    restarts: int = 1,
    begin: Tensor | None = None,
) -> Tensor:
    """(N, 3, H, W) attacked pixels from 0 to 1, each picture at most `epsilon` away.

    Args:
        step_size: None: `step_rule`.
        restarts: from other random points; for each row the pictures with the highest loss are kept.
        begin: where to begin, in place of a random point.
    """
    size = step_size or step_rule(epsilon, steps)
    tries = []
    for restart in range(restarts if random_start and begin is None else 1):
        pixels = target.pixels if begin is None else begin
        if random_start and begin is None:
            pixels = start(target, epsilon, norm, restart)
        for _ in range(steps):
            _, gradient = target.raised(pixels)
            pixels = within(pixels + size * steepest(gradient, norm), target.pixels, epsilon, norm)
        tries.append(pixels)
    return worst(target, tries)
