"""A model's methods of the script's own that are asked for its answers: no forward pass of the whole is heard there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from torch import nn

DEEP = 8  # calls inside each other that are gone through to find out who asked


@dataclass(frozen=True, eq=False)
class Method:
    """One call. `caller`: the frame that it came from."""

    model: nn.Module
    name: str
    caller: FrameType | None


def asks(frame: FrameType, models: Sequence[nn.Module]) -> Method | None:
    """The method that a frame is the beginning of, if it is one of `models`' and no other method of it calls it."""
    model = _of(frame, models)
    if model is None:
        return None
    above = frame.f_back
    for _ in range(DEEP):
        if above is None:
            break
        if _of(above, models) is model:
            return None
        above = above.f_back
    return Method(model, frame.f_code.co_name, frame.f_back)


def _of(frame: FrameType, models: Sequence[nn.Module]) -> nn.Module | None:
    """The model whose method is at work there."""
    code = frame.f_code
    own = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    if own is None or getattr(getattr(type(own), code.co_name, None), "__name__", "") != code.co_name:
        return None
    return next((model for model in models if model is own), None)
