"""Our hooks on somebody's modules and optimizers: they answer nothing, and no copy of a model takes them along."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from sightline.attach.eyes import Eyes
from sightline.attach.inside import Inside
from sightline.attach.language import generation_hook, generators
from sightline.attach.phases.state import FLAGS, State
from sightline.attach.quiet import Hook as Hook
from sightline.attach.recorder import Recorder
from sightline.attach.setup import embedding_of
from sightline.attach.towers import Towers

Act = Callable[..., Any]
_training, _dynamo = torch.is_grad_enabled, torch.compiler.is_dynamo_compiling  # found once: asked at each call


class Dozing(Hook):
    """A forward hook for the time asleep: in a training forward, one test and one sum. Others are told to `act`."""

    def __init__(self, state: State, act: Act, fault: Callable[[Exception], None] | None = None) -> None:
        super().__init__(act, fault)
        self._state = state

    def __call__(self, *args: Any) -> None:
        s = self._state
        judged = s.declared or s.evaluated or s.asked
        if not _dynamo() and _training() and not judged and s.forwards < s.stalled:
            s.forwards += 1
            return
        super().__call__(*args)


class Stepped(Hook):
    """A hook after optimizers' steps: asleep, a step of the one optimizer that it knows is counted here."""

    def __init__(self, state: State, act: Act, fault: Callable[[Exception], None] | None = None) -> None:
        super().__init__(act, fault)
        self._state = state

    def __call__(self, *args: Any) -> None:
        s = self._state
        sleeps_on = s.step + 1 < s.wakes and (s.step + 1) % FLAGS
        if not _dynamo() and s.lone is args[0] and sleeps_on and s.forwards != s.at_step:
            s.step += 1
            s.at_step = s.forwards
            s.stalled = s.forwards + s.patience
            return
        super().__call__(*args)


class Doze:
    """Hooks for the time awake, of the model's `calls` and of what else happens, and others for the time asleep.

    A handle for all of them.
    """

    def __init__(
        self, calls: Sequence[Callable[[], Any]], also: Sequence[Callable[[], Any]], asleep: Sequence[Callable[[], Any]]
    ) -> None:
        self._calls, self._awake, self._asleep, self._gone = len(calls), [*calls, *also], asleep, False
        self._handles: list[Any] = []
        self.listen()

    def also(self, one: Callable[[], Any]) -> None:
        """Listen in one more way from now on, for the time awake. To be said while awake."""
        self._awake.append(one)
        self._handles.append(one())

    def deaf(self) -> None:
        """Hear no call of the model as a whole from now on: others tell of its parts'. To be said while awake."""
        for handle in self._handles[: self._calls]:
            handle.remove()
        del self._handles[: self._calls], self._awake[: self._calls]
        self._calls, self._asleep = 0, ()

    def listen(self) -> None:
        """Hear all."""
        self._change(self._awake)

    def rest(self) -> None:
        """Hear what is needed to wake up again."""
        self._change(self._asleep)

    def _change(self, put: Sequence[Callable[[], Any]]) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = [] if self._gone else [one() for one in put]

    def remove(self) -> None:
        """Take them off for good."""
        self._gone = True
        self._change(())


def unwrapped(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """(the module to listen at, the module to read). A compiled one is called, and read as it was before."""
    inner, compiled = model, None
    while True:
        if isinstance(inner, DataParallel | DistributedDataParallel):
            inner = inner.module
        elif isinstance(original := inner.__dict__.get("_modules", {}).get("_orig_mod"), nn.Module):
            inner, compiled = original, inner if compiled is None else compiled  # a module may have no truth
        else:
            return inner if compiled is None else compiled, inner


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
    inside = Inside(r)
    r.pace.inner = len(connectors) + 2 * len(inner) + (embedding is not None) + isinstance(loss_fn, nn.Module)
    before, ready = Hook(r.before_forward, fault), Hook(r.before_step, fault)
    calls: list[Callable[[], Any]] = []
    asleep: list[Callable[[], Any]] = []
    if heard:
        after = Hook(r.after_forward, fault)
        calls.append(lambda: called.register_forward_pre_hook(before, with_kwargs=True, prepend=True))
        calls.append(lambda: called.register_forward_hook(after, with_kwargs=True, always_call=True))
        doze = Dozing(r, r.after_forward, fault)
        asleep.append(lambda: called.register_forward_hook(doze, with_kwargs=True))
    ears = r.ears = Doze(calls, [lambda: register_optimizer_step_pre_hook(ready)] if steps else [], asleep)
    eyes = Eyes(r.signals, r.towers)
    if whole:
        for one in (r.sighted, eyes):
            one.listen(lambda act: Hook(act, fault))
    r.renamed = lambda towers: _hear_connectors(r, ears, towers, fault)
    return [
        r.ears,
        r.sighted,
        eyes,
        *(module.register_forward_hook(Hook(r.signals.connector_gave, fault)) for module in connectors),
        *([embedding.register_forward_hook(Hook(r.signals.embedding_gave, fault))] if embedding is not None else []),
        *(m.register_forward_hook(Hook(generated, fault), with_kwargs=True) for m in inner),
        *inside.listen(inner, lambda act: Hook(act, fault)),
        *([loss_fn.register_forward_hook(Hook(r.backward.loss_made, fault))] if isinstance(loss_fn, nn.Module) else []),
        *([register_optimizer_step_post_hook(Stepped(r, r.after_step, fault))] if steps else []),
    ]


def _hear_connectors(recorder: Recorder, ears: Doze, towers: Towers, fault: Callable[[Exception], None] | None) -> None:
    """Those of towers that were found late."""
    for module in towers.modules.get("connector", {}).values():
        ears.also(functools.partial(module.register_forward_hook, Hook(recorder.signals.connector_gave, fault)))
        recorder.pace.inner += 1
