"""Our hooks on somebody's modules and optimizers: they answer nothing, and no copy of a model takes them along."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sightline.attach.language import generation_hook, generators
from sightline.attach.recorder import Recorder
from sightline.attach.setup import embedding_of

Act = Callable[..., Any]


class Hook:
    """Calls `act` and returns None, so that the host's values go on unchanged.

    A copied or pickled model (averages of weights, the best model so far, ``torch.save(model)``) gets a function of the
    standard library in its place, which does nothing and loads without Sightline. A graph that torch compiles or
    traces holds nothing of it. `fault`: told of the guard's own errors, which are raised without it.
    """

    def __init__(self, act: Act, fault: Callable[[Exception], None] | None = None) -> None:
        self._act, self._fault = act, fault

    def __call__(self, *args: Any) -> None:
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return
        if self._fault is None:
            self._act(*args)
            return
        try:
            self._act(*args)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end somebody's run; it is told, not lost
            self._fault(error)

    def __reduce__(self) -> Any:
        return getattr, (contextlib.nullcontext(), "__exit__")


def unwrapped(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(the module to listen at, the module to read). A compiled one is called, and read as it was before."""
    inner, compiled = model, None
    while True:
        if isinstance(inner, DataParallel | DistributedDataParallel):
            inner = inner.module
        elif isinstance(original := inner.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            inner, compiled = original, compiled or inner
        else:
            return compiled or inner, inner


def listening(module: nn.Module, before: Hook, after: Hook) -> list[Any]:
    """Call `before` and `after` around each call of `module`; `after` also when the call raised, without output."""
    return [
        module.register_forward_pre_hook(before, with_kwargs=True, prepend=True),
        module.register_forward_hook(after, with_kwargs=True, always_call=True),
    ]


def hooked(
    recorder: Recorder,
    called: nn.Module,
    loss_fn: nn.Module | None,
    fault: Callable[[Exception], None] | None,
    heard: bool,
    *,
    steps: bool = True,
) -> list[Any]:
    """Connect a recorder with the hooks of torch; returns the handles that take them away.

    `heard`: hear its forward passes; `steps`: hear every optimizer's steps.
    """
    r, model = recorder, recorder.model
    if fault is not None:  # tensors' hooks call these by name
        for name in ("began", "gradient_came", "loss_came"):
            setattr(r.backward, name, Hook(getattr(r.backward, name), fault))
    whole = called is model  # inside a compiled graph there is nothing to hear
    embedding = embedding_of(model) if whole else None
    connectors = list(r.towers.modules.get("connector", {}).values()) if whole else []
    inner = generators(model) if whole else ()
    generated = generation_hook(r.probing.language, lambda: r.muted, lambda: r.step, r.silence, r.offer)
    r.pace.inner = len(connectors) + len(inner) + (embedding is not None) + isinstance(loss_fn, nn.Module)
    return [
        *(listening(called, Hook(r.before_forward, fault), Hook(r.after_forward, fault)) if heard else []),
        *(module.register_forward_hook(Hook(r.signals.connector_gave, fault)) for module in connectors),
        *([embedding.register_forward_hook(Hook(r.signals.embedding_gave, fault))] if embedding is not None else []),
        *(m.register_forward_hook(Hook(generated, fault), with_kwargs=True) for m in inner),
        *([loss_fn.register_forward_hook(Hook(r.backward.loss_made, fault))] if isinstance(loss_fn, nn.Module) else []),
        *([register_optimizer_step_pre_hook(Hook(r.before_step, fault))] if steps else []),
        *([register_optimizer_step_post_hook(Hook(r.after_step, fault))] if steps else []),
    ]
