"""Attacked pixels as an image file holds them: 256 levels a channel, still within the bound."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sightline.evaluate.robust.attacks.norms import Norm, across, size

SLACK = 1e-4  # of a level: fp32 leaves 8 / 255 a little under eight levels
HALVINGS = 12  # of the step back from a rounded difference that is too long


def in_levels(pixels: Tensor, clean: Tensor, epsilon: float | None = None, norm: Norm = "linf") -> Tensor:
    """`pixels` rounded to k / 255, as near as the bound around `clean` (levels, too) allows; None: no bound.

    Rounding to the nearest level may lead out of the bound: by linf, levels past it are taken back to the last one
    within; by l2, the whole difference is shortened until its rounded form fits.
    """
    base, raw = clean.mul(255).round(), pixels.mul(255)
    if epsilon is None:
        return raw.round() / 255
    if norm == "linf":
        most = math.floor(epsilon * 255 + SLACK)
        return torch.minimum(torch.maximum(raw.round(), base - most), base + most) / 255
    delta = raw - base
    low, high = torch.zeros(len(delta), device=delta.device), torch.ones(len(delta), device=delta.device)
    share = high
    for _ in range(HALVINGS):
        fits = size((delta * across(share, delta)).round() / 255, norm) <= epsilon
        low, high = torch.where(fits, share, low), torch.where(fits, high, share)
        share = torch.where(low == 1, low, (low + high) / 2)
    return (base + (delta * across(low, delta)).round()) / 255
