"""One attack on one batch of rows: the attacked pixels, the same in 8 bits, and noise of the same size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sightline.evaluate.robust.attacks import norms, patch
from sightline.evaluate.robust.attacks.fgsm import fgsm
from sightline.evaluate.robust.attacks.levels import in_levels
from sightline.evaluate.robust.attacks.pgd import pgd
from sightline.evaluate.robust.attacks.target import Target
from sightline.recipe.robust import Attack


@dataclass(frozen=True, slots=True)
class Attacked:
    """(N, 3, H, W) pixels from 0 to 1: `floats` as the attack left them, `levels` of 8 bits, `noise` beside them.

    `where`: (N, 1, H, W), the place of a patch; None: everywhere.
    """

    floats: Tensor
    levels: Tensor
    noise: Tensor
    where: Tensor | None


def attacked(target: Target, attack: Attack, epsilon: float) -> Attacked:
    """`attack` at the bound `epsilon`."""
    clean, size, restarts = target.pixels, attack.step_size, attack.restarts
    if attack.kind == "patch":
        pixels, where = patch.patch(target, epsilon, steps=attack.steps, step_size=size, restarts=restarts)
        return Attacked(pixels, in_levels(pixels, clean), patch.noise(target, where), where)
    if attack.kind == "fgsm":
        pixels = fgsm(target, epsilon, attack.norm)
    else:
        steps, anywhere = attack.steps, attack.random_start
        pixels = pgd(
            target, epsilon, attack.norm, steps=steps, step_size=size, random_start=anywhere, restarts=restarts
        )
    noise = norms.noise(target, epsilon, attack.norm)
    return Attacked(pixels, in_levels(pixels, clean, epsilon, attack.norm), noise, None)
