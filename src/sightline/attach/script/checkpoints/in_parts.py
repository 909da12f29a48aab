"""A model that is read back part by part: of all that it was trained for, something may be forgotten.

What is loaded into a part says nothing of the rest, so the whole is looked for that has the part in it. So it is with
what a library reads, which makes anew what its file lacks: a body's file, read for a body with a head.
"""

from __future__ import annotations

import functools
import sys
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

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {"transformers.modeling_utils": self._transformers}

    def _transformers(self) -> None:
        kind = sys.modules["transformers.modeling_utils"].PreTrainedModel
        read, came = kind.from_pretrained.__func__, self._hook(self._read)

        @functools.wraps(read)
        def reading(cls: type, *args: Any, **kwargs: Any) -> Any:
            result = read(cls, *args, **kwargs)
            came(result[0] if isinstance(result, tuple) else result)
            return result

        kind.from_pretrained = classmethod(reading)

    def _read(self, module: nn.Module) -> None:
        """A library made `module` and read it: a whole, or a part of one that is made later."""
        for act in self._models.read:
            act(module)
        for model in [one.recorder.model for one in self._models.live if one.recorder.step]:
            if _alike(module, model):
                watch_half(module, {}, _other(module, model), self._models, self._hook)
            elif any(_alike(module, m) for m in [*model.modules()][1:]):
                self._watch(module)

    def _watch(self, part: nn.Module) -> None:
        """When it is called first, it is in its whole."""

        def called(*_: Any) -> None:
            handle.remove()
            if not torch.is_grad_enabled():
                self.given(part, {})

        handle = part.register_forward_pre_hook(self._hook(called))

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
            if not any(_alike(part, m) for m in every[1:]):
                continue
            alike = (m for m in modules_alive() if _alike(m, model))
            whole = next((m for m in alike if any(inner is part for inner in [*m.modules()][1:])), None)
            if whole is not None:
                watch_half(whole, state, _other(whole, model), self._models, self._hook)
                return


def _alike(one: nn.Module, other: nn.Module) -> bool:
    return type(one) is type(other) and _shapes(one) == _shapes(other)


def _shapes(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(p.shape)) for name, p in module.named_parameters()]


def _other(whole: nn.Module, model: nn.Module) -> list[str]:
    """Names of what has other values than the trained one's."""
    theirs = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    own = {name: value for name, value in whole.state_dict().items() if isinstance(value, Tensor)}
    return [name for name in own if name not in theirs or not torch.equal(own[name], theirs[name].to(own[name]))]
