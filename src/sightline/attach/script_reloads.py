"""A model that is read back with parts of it missing, and then used as if it were whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.hook import Hook
from sightline.attach.script_watch import Watched
from sightline.guard.evidence import RoundTripSeen


def watch_reload(
    module: nn.Module, missing: Sequence[str], one: Watched, path: str, hook: Callable[[Callable[..., Any]], Hook]
) -> None:
    """Judge at `module`'s next forward pass whether what its file lacked came from elsewhere, or never did.

    Only where `module` is built as the model of `one` is, which was trained and saved; a head that is left out and then
    trained anew is as its author wants it.
    """
    if one.attachment is None or list(one.recorder.model.state_dict()) != list(module.state_dict()):
        return
    at_load = {name: value.clone() for name, value in _of(module, missing).items()}
    handles: list[Any] = []

    def used(*_: Any) -> None:
        handles.pop().remove()
        if torch.is_grad_enabled() or module.training or one.attachment is None:
            return
        trained = _of(one.recorder.model, missing)
        shared = {value.data_ptr() for value in _of(module, set(module.state_dict()) - set(missing)).values()}
        lost = tuple(
            name
            for name, value in _of(module, missing).items()
            if torch.equal(value, at_load[name])
            and not torch.equal(value, trained[name].to(value.device, value.dtype))
            and value.data_ptr() not in shared  # tied to what the file holds
        )
        if lost:
            compared = len(module.state_dict()) - len(missing)
            one.attachment.show(RoundTripSeen(one.recorder.step, path, compared, lost))

    handles.append(module.register_forward_pre_hook(hook(used)))


def _of(module: nn.Module, names: Sequence[str] | set[str]) -> dict[str, Tensor]:
    return {n: t.detach() for n, t in module.state_dict().items() if n in names and isinstance(t, Tensor)}
