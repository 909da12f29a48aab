"""Copies of a model that is trained, by which a script judges it: its average, or what it reads back at the end.

A copy is made in the mode that its original was in, and a new model is in train mode; and what a model keeps outside of
its state does not come back with it (`attach/script/checkpoints/attributes.py`). Nothing is said of a copy that
learns itself, now or later (so all is told at the end), answers at every step (a target, a teacher), is asked again
about one input (to see how far its answers spread), or is asked in eval mode too (its batch statistics were taken anew
before).
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.hook import Hook
from sightline.attach.origins import ORIGINS, values_of
from sightline.attach.phases.evaluation import counts_anew
from sightline.attach.script.checkpoints.attributes import Kept, lost, plain
from sightline.attach.script.checkpoints.remade import Setting, differing, telling
from sightline.attach.script.watch import Models, Watched
from sightline.attach.towers import changes_with_mode
from sightline.guard.evidence import ContextSeen, EvaluationSeen, Evidence, RoundTripSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.context import context
from sightline.guard.probes.twice import mode_gap

PENDING = 4096  # modules that were copied or read before any model was watched
SAVES = 256  # of which the weights are known again
MOST = 8  # copies listened to at a time


@dataclass(eq=False)
class StandIn:
    """One of them. `at`: the learner's step and forwards at the last call; `asked`: what it was called with then.

    `made`: what a model that was read back kept outside of its state, until that is compared; `apart`: where it was
    built otherwise; `found`: what these show.
    """

    module: weakref.ref[nn.Module]
    learner: Watched
    handle: Any = None
    at: tuple[int, int] | None = None
    asked: weakref.ref[Tensor] | None = None
    seen: EvaluationSeen | None = None
    made: Kept | None = None
    apart: tuple[Setting, ...] = ()
    found: Evidence | None = None

    def leave(self) -> None:
        """Listen no more, and say nothing of its mode."""
        self.seen = None
        if self.handle is not None:
            self.handle.remove()
            self.handle = None


class StandIns:
    """Listens to modules that are built as a watched one is. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models, self._pending, self._known = models, list[weakref.ref[nn.Module]](), list[StandIn]()
        self._saved: weakref.WeakKeyDictionary[Watched, set[tuple[float, ...]]] = weakref.WeakKeyDictionary()
        self._built: weakref.WeakKeyDictionary[Watched, set[tuple[str, ...]]] = weakref.WeakKeyDictionary()
        self._hook = lambda act: Hook(act, lambda error: fault(f"stand-in: {type(error).__name__}: {error}"))
        models.others.append(lambda: [m for one in self._known if one.handle and (m := one.module()) is not None])

    def install(self) -> Callable[[Any, str], None]:
        """Notice what is copied, or made of a file or a state, from now on. Returns whom to tell of what is saved."""
        rebuild, load, came = nn.Module.__setstate__, nn.Module.load_state_dict, self._hook(self._came)

        @functools.wraps(rebuild)
        def rebuilt(module: nn.Module, state: Any) -> None:
            rebuild(module, state)
            came(module, None)

        @functools.wraps(load)
        def loaded(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            result = load(module, *args, **kwargs)
            came(module, plain(module))
            return result

        nn.Module.__setstate__ = rebuilt  # type: ignore[method-assign]
        nn.Module.load_state_dict = loaded  # type: ignore[method-assign, assignment]
        self._models.read.append(self._hook(lambda module: self._came(module, plain(module))))
        self._models.before.append(self._hook(self._stepping))
        self._models.entering.append(self._hook(self._learns))
        self._models.ending.append(self._hook(self._ends))
        return self._hook(self._noted)

    def _came(self, module: nn.Module, made: Kept | None) -> None:
        if self._models.live:
            for act in self._models.copied:
                act(module)
            self._look(module, made)
        elif len(self._pending) < PENDING:
            self._pending.append(weakref.ref(module))

    def _stepping(self, optimizer: Optimizer) -> None:
        """By now something is watched."""
        if self._pending and self._models.live:
            pending, self._pending = self._pending, []
            for ref in pending:
                if (module := ref()) is not None:
                    self._look(module, None)

    def _look(self, module: nn.Module, made: Kept | None) -> None:
        """Is it built as a watched one is, and is not that one?"""
        self._known = [one for one in self._known if one.found or (one.handle and one.module() is not None)]
        heard = sum(one.handle is not None for one in self._known)
        if heard >= MOST or any(one.module() is module for one in self._known):
            return
        alike = [one for one in self._models.live if type(one.recorder.model) is type(module)]
        if any(one.recorder.model is module for one in alike):
            return
        if made is None and not any(map(changes_with_mode, module.modules())):
            return
        shapes = [(name, p.shape) for name, p in module.named_parameters()]
        fits = [w for w in alike if shapes == [(name, p.shape) for name, p in w.recorder.model.named_parameters()]]
        if shapes and fits:
            learner = next((w for w in fits if _equal(w.recorder.model, module)), fits[0])
            apart = () if made is None else differing(learner.recorder.model, module)
            one = StandIn(weakref.ref(module), learner, made=made, apart=apart)
            one.handle = module.register_forward_hook(self._hook(functools.partial(self._asked, one)), with_kwargs=True)
            self._known.append(one)

    def _asked(self, one: StandIn, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any) -> None:
        """It was called."""
        recorder = one.learner.recorder
        if one.learner.attachment is None or recorder.muted or not recorder.step:
            return
        if torch.is_grad_enabled() and any(p.requires_grad for p in module.parameters()):
            return  # it may learn
        self._compare(one, Call(module, args, kwargs))
        lively = [name for name, part in module.named_modules() if part.training and changes_with_mode(part)]
        first = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
        again = first is not None and one.asked is not None and one.asked() is first
        one.asked = weakref.ref(first) if first is not None else None
        at, was = (recorder.step, recorder.forwards), one.at
        if not lively or again or (was is not None and was != at and at[0] - was[0] <= 1):
            one.leave()
            return
        one.at = at
        if was == at or one.seen is not None or counts_anew(module):
            return
        call = Call(module, args, kwargs)
        if call.repeatable:
            with recorder.silence():
                gap = mode_gap(call)
            if gap:
                one.seen = EvaluationSeen(at[0], False, tuple(lively), mode_gap=gap, copy=True)

    def _compare(self, one: StandIn, call: Call) -> None:
        """Once: does its answer hang on what it was made with, and was to have from the one that was trained?"""
        made, one.made = one.made, None
        learner, trained = one.learner, one.learner.recorder.model
        if made is None or not call.repeatable:
            return
        step, compared = learner.recorder.step, sum(1 for _ in trained.parameters())
        if self._had(learner, call.model):
            same, told = set(differing(trained, call.model)), tuple[str, ...]()
            with learner.recorder.silence(), suppress(Exception):  # a number of another kind, that does not fit
                told = telling(tuple(s for s in one.apart if s in same), call)
            self._built.setdefault(learner, set()).add(told)
            if told:
                one.found = RoundTripSeen(step, "", compared, settings=told)
                return
        if made:
            with learner.recorder.silence():
                names, gap = lost(trained, call, made)
            if names:
                one.found = RoundTripSeen(step, "", compared, outside=names, gap=gap)
            else:
                one.found = _turned_otherwise(trained, call.model, step)

    def _noted(self, what: Any, path: str) -> None:
        """Something was saved: what the models have now may be read back later."""
        for one in self._models.live:
            known = self._saved.setdefault(one, set())
            if one.recorder.step and len(known) < SAVES:
                known.add(values_of(one.recorder.model))

    def _had(self, learner: Watched, copy: nn.Module) -> bool:
        """Whether `learner` has the weights of `copy`, or had them when something was saved."""
        values = values_of(copy)
        return bool(values) and (values == values_of(learner.recorder.model) or values in self._saved.get(learner, ()))

    def _learns(self, other: Watched) -> None:
        """A model is watched from now on: a copy that is trained is another model, made as it is on purpose."""
        moved = {id(p) for p in other.recorder.model.parameters()}
        for one in self._known:
            if (module := one.module()) is not None and any(id(p) in moved for p in module.parameters()):
                one.found = None

    def _ends(self, learner: Watched) -> None:
        """The last chance to tell of copies of `learner`: none was ever asked in eval mode, and none learned."""
        for one in self._known:
            if one.learner is not learner or learner.attachment is None:
                continue
            compared = isinstance(one.found, RoundTripSeen) and one.found.settings and len(self._built[learner]) > 1
            if one.found is not None and self._still(one) and not compared:
                learner.attachment.show(one.found)
            if one.seen is not None:
                learner.attachment.show(one.seen)
            one.found = None
            one.leave()

    def _still(self, one: StandIn) -> bool:
        """Whether it never learned, and cannot any more: it is gone, or the script is over."""
        module = one.module()
        if module is None:
            return True
        return self._models.over and not any(ORIGINS.optimized(p) or p.grad is not None for p in module.parameters())


def _equal(one: nn.Module, other: nn.Module) -> bool:
    """Whether all weights are the same; seldom more than the first are compared."""
    pairs = list(zip(one.parameters(), other.parameters(), strict=True))
    return all(p.device == q.device and p.dtype == q.dtype and torch.equal(p, q) for p, q in pairs)


def _turned_otherwise(trained: nn.Module, copy: nn.Module, step: int) -> ContextSeen | None:
    """How far rotary positions reach that are in no state, where a model that was read back stretches them less.

    Who stretches them further than in training wants longer rows.
    """
    if not _equal(trained, copy):
        return None
    here, there = context(trained, step), context(copy, step)
    if here is None or there is None or here.running is None:
        return None
    less = there.running is not None and there.running[1] < here.running[1]
    return replace(here, copied=there.running) if less else None
