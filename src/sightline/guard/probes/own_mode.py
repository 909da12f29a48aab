"""What a model's own `train()` would freeze, asked of a copy without weights: the model itself is not touched."""

from __future__ import annotations

import copy
import io
from collections import OrderedDict
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from sightline.guard.evidence import OwnModeSeen

COPIED = (nn.Module, list, tuple, dict, set)  # what may hold modules; a trainer or a logger is not copied


def overrides(model: nn.Module) -> list[nn.Module]:
    """Modules whose class has a `train()` of its own."""
    return [module for module in model.modules() if type(module).train is not nn.Module.train]


def own_mode(model: nn.Module, step: int) -> OwnModeSeen | None:
    """Compare the model, in train mode, with a copy on which `train()` was just called.

    None where nothing overrides `train()`, where the model is in evaluation mode, where modules carry a `train` of
    their own that is no method of their class (it may reach the real model), or where no copy can be made.
    """
    own = overrides(model)
    if not own or not model.training or any("train" in module.__dict__ for module in model.modules()):
        return None
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), torch.no_grad():
            twin = copy.deepcopy(model, _weightless(model))
            twin.train()
    except Exception:  # noqa: BLE001 - somebody's train() or copying may raise anything; then nothing is known
        return None
    now, then = dict(model.named_parameters()), dict(twin.named_parameters())
    modes, later = dict(model.named_modules()), dict(twin.named_modules())
    if now.keys() != then.keys() or modes.keys() != later.keys():
        return None
    return OwnModeSeen(
        step,
        kind=type(own[0]).__name__,
        freezes=tuple(name for name, p in now.items() if p.requires_grad and not then[name].requires_grad),
        quiets=tuple(name for name, m in modes.items() if m.training and not later[name].training),
    )


def _weightless(model: nn.Module) -> dict[int, Any]:
    """A memory for `deepcopy` in which tensors have no storage, nothing is hooked, and foreign objects are shared."""
    memory: dict[int, Any] = {}
    for module in model.modules():
        held = {**module.__dict__["_parameters"], **module.__dict__["_buffers"], **module.__dict__}
        for name, value in held.items():
            if isinstance(value, nn.Parameter):
                memory[id(value)] = nn.Parameter(_empty(value), requires_grad=value.requires_grad)
            elif isinstance(value, Tensor):
                memory[id(value)] = _empty(value)
            elif "_hooks" in name and isinstance(value, dict):
                memory[id(value)] = OrderedDict()
            elif not isinstance(value, COPIED):
                memory[id(value)] = value
    return memory


def _empty(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
