"""The fast gradient (sign) method: one step of the whole bound (Goodfellow et al. 2015, arXiv 1412.6572, section 4)."""

from __future__ import annotations

from torch import Tensor

from sightline.evaluate.robust.attacks.norms import Norm, steepest
from sightline.evaluate.robust.attacks.target import Target


def fgsm(target: Target, epsilon: float, norm: Norm = "linf") -> Tensor:
    """(N, 3, H, W) attacked pixels from 0 to 1, each picture at most `epsilon` away."""
    _, gradient = target.raised(target.pixels)
    return (target.pixels + epsilon * steepest(gradient, norm)).clamp(0, 1)
