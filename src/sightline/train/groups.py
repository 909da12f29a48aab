"""Parameter groups: one per tower and decay, so that every tower has its own rate and no norm or bias is decayed."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.models.vlm import VLM
from sightline.recipe.schema import TOWERS, Stage


def build_optimizer(model: VLM, stage: Stage) -> torch.optim.AdamW:
    """AdamW over the parameters that learn. Each group carries its `tower` and its `peak` rate.

    1-D parameters (norm gains, biases) are not decayed, as in GPT-2's and CLIP's training.
    """
    spec = stage.optimizer
    groups = []
    for tower in TOWERS:
        learning = [p for _, p in model.tower_parameters(tower) if p.requires_grad]
        for parameters, decay in (
            ([p for p in learning if p.ndim > 1], spec.weight_decay),
            ([p for p in learning if p.ndim <= 1], 0.0),
        ):
            if parameters:
                rate = stage.rate_for(tower)
                group = {"params": parameters, "lr": rate, "peak": rate, "weight_decay": decay, "tower": tower}
                groups.append(group)
    device = groups[0]["params"][0].device.type  # type: ignore[index]
    return torch.optim.AdamW(groups, betas=spec.betas, eps=spec.eps, fused=device in ("cpu", "cuda"))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's rate to `factor` times its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The present learning rate of each tower that learns."""
    return {group["tower"]: group["lr"] for group in optimizer.param_groups}


def parameters_by_tower(optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    """The parameters that learn, by tower."""
    towers: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        towers.setdefault(group["tower"], []).extend(group["params"])
    return towers
