"""Reads where PEFT put adapters, where it was given bare names alone: it goes by names, and asks for no tower."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from torch import nn

from sightline.attach.origins import ORIGINS
from sightline.attach.towers import Towers
from sightline.guard.evidence.setup import Adapted, Placed

MORE = ("exclude_modules", "layers_to_transform", "rank_pattern", "alpha_pattern")  # what tells like-named layers apart


def adapted(model: nn.Module, towers: Towers) -> dict[str, Adapted]:
    """Tower -> its adapters; see `Adapted`. Costs one pass over the names of modules, where PEFT is in use."""
    peft = sys.modules.get("peft.tuners.tuners_utils")
    if peft is None:
        return {}
    rested = {name: how for name, p in model.named_parameters() if (how := ORIGINS.rested(p))}
    if not rested and not _by_bare_names(model):
        return {}
    having, without = _layers(model, peft.BaseTunerLayer)
    lists = {name for name, module in model.named_modules() if isinstance(module, nn.ModuleList | nn.Sequential)}
    owners = {path: tower for paths in (having, without) for path in paths if (tower := _tower(path, towers))}
    found = {}
    for tower in ("vision", "language"):
        mine = [path for path in having if owners.get(path) == tower]
        rest = [path for path in without if owners.get(path) == tower]
        modules, blocks = {_parent(path) for path in mine}, {_block(path, lists) for path in mine}
        if mine:
            found[tower] = Adapted(
                next(iter(towers.modules[tower])).rpartition(".")[2],
                _last(mine),
                _last([path for path in rest if _parent(path) in modules]),
                _last([path for path in rest if _block(path, lists) in blocks]),
                _rested(mine, rested),
            )
    return found


def _by_bare_names(model: nn.Module) -> bool:
    """PEFT's own record: only lists of names (it keeps sets), and nothing that keeps layers of one name apart."""
    records = (vars(module).get("peft_config") for module in model.modules())
    configs: list[Any] = list(next((one for one in records if isinstance(one, dict)), {}).values())
    return bool(configs) and all(placed(config) == "bare names" for config in configs)


def placed(config: Any) -> Placed | None:
    """How PEFT is told where adapters belong; None where something keeps layers of one name apart."""
    targets = getattr(config, "target_modules", None)
    if any(getattr(config, name, None) for name in MORE):
        return None
    if targets == "all-linear":
        return "all-linear"
    bare = isinstance(targets, set | list | tuple) and not any("." in name for name in targets)
    return "bare names" if bare else None


def _rested(paths: list[str], rested: Mapping[str, Placed]) -> Placed | None:
    """How adapters came, where all that they are beside was frozen when they did, and not all else was."""
    found = {rested.get(f"{path}.base_layer.weight") for path in paths}
    return found.pop() if len(found) == 1 else None


def _layers(model: nn.Module, adapter: type) -> tuple[list[str], list[str]]:
    """Paths of layers with adapters, and of other linear layers. What is inside a layer with adapters is part of it."""
    having: list[str] = []
    without: list[str] = []
    for path, module in model.named_modules():
        if having and path.startswith(having[-1] + "."):
            continue
        if isinstance(module, adapter):
            having.append(path)
        elif hasattr(module, "in_features") or isinstance(getattr(module, "nf", None), int):  # GPT-2's are named so
            without.append(path)
    return having, without


def _tower(path: str, towers: Towers) -> str | None:
    return towers.of.get(f"{path}.base_layer.weight") or towers.of.get(f"{path}.weight")


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


def _block(path: str, lists: set[str]) -> str:
    """The item of the nearest list of layers that holds it; without one, the module around it."""
    above = _parent(path)
    while above and _parent(above) not in lists:
        above = _parent(above)
    return above or _parent(path)


def _last(paths: list[str]) -> tuple[str, ...]:
    return tuple(sorted({path.rpartition(".")[2] for path in paths}))
