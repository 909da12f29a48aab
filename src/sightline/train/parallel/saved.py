"""A checkpoint's tensors back to where they lie now: any layout reads what any other wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from sightline.errors import UserError
from sightline.models.shards import PARTS, SHARDS, read_shards, read_weights, stored
from sightline.train.parallel.sharded import fill

OWN = ("params", "fused", "foreach", "capturable")  # of an optimizer's group: what suits how tensors lie here


def read(folder: Path, into: Mapping[str, Tensor]) -> None:
    """Fill `into` (by part and name) in place from the checkpoint `folder`; all ranks must call.

    Whole files are read tensor by tensor, so that no rank holds more than one of them beside its own part.
    """
    if (folder / SHARDS).is_dir():
        read_shards(folder, into)
        return
    for part in PARTS:
        wanted = {name.removeprefix(f"{part}."): each for name, each in into.items() if name.startswith(f"{part}.")}
        if wanted:
            with safe_open(folder / f"{part}.safetensors", "pt") as file:
                for name, tensor in wanted.items():
                    fill(tensor, file.get_tensor(name))


def load_weights(folder: Path, model: nn.Module) -> None:
    """Take up the weights alone (a finished stage's, as the start of the next), into a model wherever it lies."""
    if not any(isinstance(p, DTensor) for p in model.parameters()):
        model.load_state_dict(read_weights(folder))
        return
    own = model.state_dict()
    if lost := own.keys() - {name.removeprefix("model.") for name in stored(folder)}:
        raise UserError(f"the checkpoint holds no {', '.join(sorted(lost)[:3])}", where=str(folder))
    read(folder, {f"model.{name}": tensor for name, tensor in own.items()})


def read_optimizer(folder: Path, model: nn.Module, optimizer: Optimizer, groups: list[dict[str, Any]]) -> None:
    """Take up the optimizer's state of each parameter of `model`, and its `groups` as `state_dict` told them."""
    index = {id(p): i for i, p in enumerate(p for group in optimizer.param_groups for p in group["params"])}
    parameters = {name: p for name, p in model.named_parameters() if id(p) in index}
    state: dict[int, dict[str, Tensor]] = {}
    into: dict[str, Tensor] = {}
    for key, saved in stored(folder).items():
        part, _, rest = key.partition(".")
        name, _, kind = rest.rpartition(".")
        if part != "optimizer" or name not in parameters:
            continue
        parameter = parameters[name]
        # State of a parameter's shape lies as the parameter does: in memory order, and on the ranks.
        alike = saved.shape == tuple(parameter.shape) and saved.shape != ()
        made = torch.empty_like(parameter, dtype=saved.dtype, requires_grad=False) if alike else saved.empty()
        state.setdefault(index[id(parameter)], {})[kind] = into[key] = made
    own = optimizer.state_dict()["param_groups"]
    if len(own) != len(groups):
        raise UserError("the saved optimizer groups its parameters otherwise", where=str(folder))
    read(folder, into)
    for group in groups:
        group["betas"] = tuple(group["betas"])  # JSON has no tuples
    merged = [saved | {key: mine[key] for key in OWN if key in mine} for saved, mine in zip(groups, own, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": merged})
