"""A model that is read back part by part: of all that it was trained for, something may be forgotten.

What is loaded into a part says nothing of the rest, so the whole is looked for that has the part in it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.alive import modules_alive
from sightline.attach.hook import Hook
from sightline.attach.script.checkpoints.contents import address, tensors
from sightline.attach.script.checkpoints.reloads import watch_half
from sightline.attach.script.watch import Models


class InParts:
    """Looks once at each module that is given a state, beside a model that is trained."""

    def __init__(self, models: Models, hook: Callable[..., Hook]) -> None:
        self._models, self._hook = models, hook
        self._known: weakref.WeakSet[nn.Module] = weakref.WeakSet()

    def given(self, part: nn.Module, state: Mapping[str, Any]) -> None:
        """A state was loaded into `part`: of a module that is built as a watched one, and is not that one?"""
        live = [one.recorder.model for one in self._models.live if one.recorder.step]
        if not live or part in self._known:
            return
        self._known.add(part)
        for model in live:
            every = [*model.modules()]
            kept, came = ({address(v) for v in values} - {0} for values in (model.parameters(), tensors(state)))
            if any(m is part for m in every) or kept & came:
                return  # its own, or what follows it
            if not any(type(m) is type(part) and _shapes(m) == _shapes(part) for m in every[1:]):
                continue
            alike = (m for m in modules_alive() if type(m) is type(model) and _shapes(m) == _shapes(model))
            whole = next((m for m in alike if any(inner is part for inner in [*m.modules()][1:])), None)
            if whole is not None:
                watch_half(whole, state, _other(whole, model), self._models, self._hook)
                return


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in module.named_parameters()]


def _other(whole: nn.Module, model: nn.Module) -> list[str]:
    """Names of what has other values than the trained one's."""
    theirs = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    own = {name: value for name, value in whole.state_dict().items() if isinstance(value, Tensor)}
    return [name for name in own if name not in theirs or not torch.equal(own[name], theirs[name].to(own[name]))]
