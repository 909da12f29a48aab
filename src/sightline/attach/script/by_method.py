"""Models that are trained by their `forward` and judged by other methods: `encode_image`, `predict`, `greedy_decode`.

No forward pass of the whole is heard there (nor where the model inside an adapter's wrapper generates), so its parts
are: one that is called without gradients, while the whole is not at work, begins an evaluation. Nothing is said of
passes at every step (targets, features, rollouts) or within an epoch of the data that is trained on, of parts whose
mode somebody has chosen, or where the same is asked many times.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import torch
from torch import nn

from sightline.attach.feed import Feed
from sightline.attach.hook import Hook
from sightline.attach.language import generators
from sightline.attach.phases.draws import Draws
from sightline.attach.phases.evaluation import counts_anew
from sightline.attach.phases.place import thrown_away
from sightline.attach.script.scoring.listen import INSIDE
from sightline.attach.script.watch import Models, Watched
from sightline.attach.towers import changes_with_mode
from sightline.guard.evidence import EvaluationSeen
from sightline.guard.probes.call import PLAIN, Call
from sightline.guard.probes.fields import plain
from sightline.guard.probes.twice import mode_gap

MOST = 6  # parts of a model that are listened to
PROBED = 3  # evaluations that are run again: after that, a difference would have shown
_training, _dynamo = torch.is_grad_enabled, torch.compiler.is_dynamo_compiling  # found once: asked at each call


class Ungraded(Hook):
    """A hook for calls without gradients alone: in a training forward, two tests."""

    def __call__(self, *args: Any) -> None:
        if not _dynamo() and not _training():
            super().__call__(*args)


@dataclass(eq=False)
class Round:
    """An evaluation. `part`: the first that was called with a difference; None where there was none to tell of."""

    step: int
    part: nn.Module | None = None
    draws: Draws | None = None
    drops: bool = False

    def seen(self) -> EvaluationSeen | None:
        """What it shows, once it is over. Reads the device where dropout is all that is on."""
        if self.draws is None or (self.drops and self.draws.meant()):
            return None
        return self.draws.seen


@dataclass(eq=False)
class Judged:
    """One model. `data`: the id of the data set that its first step was taken on; `held`: its first evaluation."""

    model: Watched
    data: int | None
    handles: list[Any]
    now: Round | None = None
    held: Round | None = None
    last: int | None = None
    probed: int = 0

    def leave(self) -> None:
        """Listen no more, and say nothing."""
        for handle in self.handles:
            handle.remove()
        self.handles, self.now, self.held = [], None, None


class ByMethod:
    """Listens to the parts of models whose calls are heard as a whole. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._known: list[Judged] = []
        self._fault = lambda error: fault(f"by method: {type(error).__name__}: {error}")
        models.heard.append(Hook(self._heard, self._fault))
        models.ending.append(Hook(self._ends, self._fault))

    def _heard(self, model: Watched) -> None:
        """From now on a model is called as a whole, and this is in its first step."""
        feed, one = Feed.last(), Judged(model, None, [])
        one.data = None if feed is None else id(feed.loader.dataset)
        whole = model.recorder.model
        inner = [(name, part) for name, part in whole.named_modules() if part in generators(whole)]
        for name, part in dict([*inner, *_parts(whole)][:MOST]).items():
            hook = Ungraded(functools.partial(self._asked, one, name), self._fault)
            one.handles.append(part.register_forward_pre_hook(hook, with_kwargs=True))
        model.recorder.pace.inner += len(one.handles)
        if one.handles:
            self._known.append(one)

    def _asked(self, one: Judged, name: str, part: nn.Module, args: tuple[Any, ...], kwargs: Any = None) -> None:
        """A part is called without gradients."""
        r = one.model.recorder
        if one.model.attachment is None or r.muted or r.declared or not r.step or kwargs is None:
            return
        if one.now is not None and one.now.step == r.step:
            if one.now.part is part and one.now.draws is not None:
                with r.silence():
                    one.now.draws.add(Call(part, args, kwargs))
            return
        whole = r.model
        if not (whole.training and part.training) or _at_work(whole, sys._getframe()):
            return
        feed = Feed.last()
        if feed is not None and id(feed.loader.dataset) == one.data and feed.epoch not in feed.lengths:
            return
        told = {key: value for key, value in kwargs.items() if plain(value, PLAIN)}  # generation begins a cache
        self._begins(one, name, Call(part, args, told))

    def _begins(self, one: Judged, name: str, call: Call) -> None:
        r, part = one.model.recorder, call.model
        lively = tuple(f"{name}.{inner}".strip(".") for inner, m in part.named_modules() if _lively(m))
        if not lively or not call.repeatable or counts_anew(part) or thrown_away():
            return
        self._over(one)
        if not one.handles or one.probed == PROBED:
            return
        one.now, one.probed = Round(r.step), one.probed + 1
        with r.silence():
            gap = mode_gap(call)
        if gap:
            seen = EvaluationSeen(r.step, False, lively, mode_gap=gap, imitates=r.imitates, part=name)
            drops = not any(isinstance(m, nn.modules.batchnorm._BatchNorm) and _lively(m) for m in part.modules())
            one.now = Round(r.step, part, Draws(seen, call), drops)

    def _over(self, one: Judged) -> None:
        """The evaluation before is over. The first is held back until another tells that it was no part of a step."""
        r, now = one.model.recorder, one.now
        one.now = None
        if now is None:
            return
        was, one.last = one.last, now.step
        if was is not None and now.step - was <= max(1, len(r.optimizers)):
            one.leave()
        elif one.held is None:
            one.held = now if now.seen() is not None else None
        elif (seen := now.seen()) is not None:
            self._show(one, replace(seen, since=now.step - (was or 0)))

    def _show(self, one: Judged, seen: EvaluationSeen) -> None:
        if one.model.attachment is not None:
            one.model.attachment.show(seen)
        one.leave()

    def _ends(self, model: Watched) -> None:
        """An evaluation after the last step is one, too."""
        for one in [one for one in self._known if one.model is model]:
            self._known.remove(one)
            self._over(one)
            if one.held is not None and (seen := one.held.seen()) is not None:
                self._show(one, seen)
            one.leave()


def _lively(module: nn.Module) -> bool:
    return module.training and changes_with_mode(module)


def _parts(whole: nn.Module, before: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The outermost parts that learn, or have nothing to learn, and change with the mode."""
    for name, child in whole.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _parts(child, f"{before}{name}.")
            continue
        parameters = list(child.parameters())
        learns = not parameters or any(p.requires_grad for p in parameters)
        if learns and any(map(changes_with_mode, child.modules())):
            yield before + name, child


def _at_work(whole: nn.Module, frame: FrameType | None) -> bool:
    """Whether a call of the whole model led here."""
    while frame is not None:
        if frame.f_code is INSIDE and frame.f_locals.get("self") is whole:
            return True
        frame = frame.f_back
    return False
