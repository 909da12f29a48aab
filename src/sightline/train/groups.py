"""Parameter groups: every tower at its own rate, its layers at theirs, and no norm or bias decayed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sightline.errors import UserError
from sightline.models.vlm import VLM
from sightline.recipe.schema import Optimizer, Stage, Tower
from sightline.train.rounding import RoundedAdamW


@dataclass(frozen=True, slots=True)
class Kind:
    """What parameters of one group have in common.

    `scale`: their rate as a fraction of their tower's. `place`: how many layers of it warm up before theirs.
    """

    tower: Tower
    scale: float
    place: int
    decayed: bool


def build_optimizer(model: VLM, stage: Stage) -> torch.optim.Optimizer:
    """The stage's optimizer over the parameters that learn. Each group carries its `tower` and its `peak` rate.

    1-D parameters (norm gains, biases) are not decayed, as in GPT-2's and CLIP's training.

    Raises:
        UserError: `no_decay` matches nothing, layers are to warm up one by one and there are none, or the optimizer's
            library is not installed.
    """
    spec, by_layer = stage.optimizer, stage.schedule.layers
    kinds: dict[Kind, list[Tensor]] = {}
    spared = 0
    for tower in model.towers:
        for name, parameter, below in _levels(model, tower, by_layer is not None or spec.layer_decay != 1.0):
            matched = bool(spec.no_decay and re.search(spec.no_decay, name))
            spared += matched
            decayed = parameter.ndim > 1 and not matched
            place = 0 if by_layer is None else below.top - below.level if by_layer.first == "top" else below.level
            kind = Kind(tower, spec.layer_decay ** (below.top - below.level), place, decayed)
            kinds.setdefault(kind, []).append(parameter)
    if by_layer is not None and not any(kind.place for kind in kinds):
        where = f"stages.{stage.name}.schedule.layers"
        raise UserError("no tower that learns has layers to warm up one by one", where=where, fix="leave it out")
    if spec.no_decay and not spared:
        where = f"stages.{stage.name}.optimizer.no_decay"
        raise UserError(f"'{spec.no_decay}' matches no parameter that learns", where=where)
    groups = [_group(stage, kind, parameters) for kind, parameters in kinds.items()]
    return _MAKERS[spec.kind](groups, spec)


def _group(stage: Stage, kind: Kind, parameters: list[Tensor]) -> dict[str, Any]:
    rate, decay = stage.rate_for(kind.tower) * kind.scale, stage.optimizer.weight_decay
    if isinstance(decay, dict):
        decay = decay.get(kind.tower, 0.0)
    return {
        "params": parameters,
        "lr": rate,
        "peak": rate,
        "weight_decay": decay if kind.decayed else 0.0,
        "tower": kind.tower,
        "place": kind.place,
    }


@dataclass(frozen=True, slots=True)
class Level:
    """How high a parameter stands in its tower: 0 below the first block, `top` above the last."""

    level: int
    top: int


def _levels(model: VLM, tower: Tower, wanted: bool) -> Iterator[tuple[str, nn.Parameter, Level]]:
    """Each parameter of `tower` that learns, and where it stands, as in timm. Not `wanted`: all in one place."""
    blocks = model.blocks(tower) if wanted else []
    height = {id(p): number for number, block in enumerate(blocks, 1) for p in block.parameters()}
    height |= {id(p): 0 for module in model.inputs(tower) for p in module.parameters()}
    top = len(blocks) + 1 if blocks else 0
    reached = 0
    for name, parameter in model.tower_parameters(tower):
        own = height.get(id(parameter))
        reached = max(reached, own or 0)
        level = own if own is not None else top if reached or not blocks else 0
        if parameter.requires_grad:
            yield name, parameter, Level(level, top)


def _adamw(groups: list[dict[str, Any]], spec: Optimizer) -> torch.optim.Optimizer:
    first = groups[0]["params"][0]
    if first.dtype == torch.bfloat16:
        return RoundedAdamW(groups, betas=spec.betas, eps=spec.eps, rounding=spec.rounding)
    device = first.device.type
    return torch.optim.AdamW(groups, betas=spec.betas, eps=spec.eps, fused=device in ("cpu", "cuda"))


def _lamb(groups: list[dict[str, Any]], spec: Optimizer) -> torch.optim.Optimizer:
    """arXiv 1904.00962, algorithm 2, without its bias correction (its first released code had none either).

    The library's default decays beside the trust ratio, and multiplies the rate of the first steps by up to
    1 / (1 - beta1); neither is in the paper, so both are off.
    """
    for group in groups:
        group["adam_debias"] = True
    return _library().Lamb(groups, betas=spec.betas, eps=spec.eps, weight_decouple=False)


def _lion(groups: list[dict[str, Any]], spec: Optimizer) -> torch.optim.Optimizer:
    """arXiv 2302.06675, algorithm 2."""
    return _library().Lion(groups, betas=spec.betas)


def _library() -> Any:
    try:
        import pytorch_optimizer
    except ImportError as error:
        raise UserError(
            "LAMB and Lion come from the package 'pytorch-optimizer', which is not installed",
            where="stages.optimizer.kind",
            fix="pip install 'sightline[optimizers]', or set kind to adamw",
        ) from error
    return pytorch_optimizer


_MAKERS = {"adamw": _adamw, "lamb": _lamb, "lion": _lion}


def set_rates(optimizer: torch.optim.Optimizer, factor: float | Callable[[int], float]) -> None:
    """Set every group's rate to `factor` times its peak; a function is given how many layers warm up before it."""
    for group in optimizer.param_groups:
        share = factor(group.get("place", 0)) if callable(factor) else factor
        group["lr"] = group["peak"] * share


def rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The present learning rate of each tower that learns; of its highest blocks, where lower ones learn slower."""
    found: dict[str, float] = {}
    for group in optimizer.param_groups:
        found[group["tower"]] = max(found.get(group["tower"], 0.0), group["lr"])
    return found


def parameters_by_tower(optimizer: torch.optim.Optimizer) -> dict[str, list[Tensor]]:
    """The parameters that learn, by tower."""
    towers: dict[str, list[Tensor]] = {}
    for group in optimizer.param_groups:
        towers.setdefault(group["tower"], []).extend(group["params"])
    return towers
