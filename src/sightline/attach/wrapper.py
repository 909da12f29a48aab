"""DDP around a model: which one calls it, and whether one holds it at all."""

from __future__ import annotations

import sys
from types import FrameType

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sightline.attach.alive import modules_alive

DEEP = 24  # frames above a model's forward pass that are looked through for DDP


def caller() -> DistributedDataParallel | None:
    """DDP calls the model, so that it stands on the stack when a step begins."""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(DEEP):
        if frame is None:
            break
        if isinstance(one := frame.f_locals.get("self"), DistributedDataParallel):
            return one
        frame = frame.f_back
    return None


def held(model: nn.Module) -> bool:
    """Whether some DDP was made around this model, called or not: then all ranks began with the same values."""
    return any(isinstance(one, DistributedDataParallel) and one.module is model for one in modules_alive())
