"""Notices a script that goes on from a checkpoint of its own, and compares what goes on with what was saved.

Loading weights is no resume: they may be tuned on other data, at another rate, or judged. It is one when the same
process saved them together with how far it had come, loads them, and trains on what it had trained on before, with an
optimizer of the same kind, made with the same rate. What is read is known by what is in it, for it may have been
written under another name, or through memory. Inputs that are drawn anew are never the same: there the moments of an
optimizer that were loaded too tell a resume. For a Trainer of Lightning see `trainers.py` too.
"""

from __future__ import annotations

import functools
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.hook import Hook, unwrapped
from sightline.attach.onlookers.schedule import schedules_of
from sightline.attach.script.again import print_of
from sightline.attach.script.checkpoints.by_count import ByCount
from sightline.attach.script.checkpoints.contents import (
    Known,
    bytes_of,
    is_among,
    known_by,
    moments_among,
    prints,
    tells_how_far,
)
from sightline.attach.script.checkpoints.followers import Followers
from sightline.attach.script.checkpoints.in_parts import InParts
from sightline.attach.script.checkpoints.left_out import is_tuning, not_given, with_lost
from sightline.attach.script.checkpoints.makes import highest, moves, rate_of
from sightline.attach.script.checkpoints.matching import Matching
from sightline.attach.script.checkpoints.reloads import watch_half, watch_nothing_came, watch_reload
from sightline.attach.script.checkpoints.saves import Saves
from sightline.attach.script.checkpoints.trainers import Fit, fit_of, of_a_trainer, settings_of
from sightline.attach.script.imports import Notice
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import ResumeSeen
from sightline.guard.probes.resume import keeps_state, resume

PARTS = ("optimizer", "schedule")  # the rest has moved by the first step: batch statistics, random numbers
LARGEST = 2**30  # bytes of a checkpoint that is kept until the next step, so that it can be compared
SAME = 0.5  # of the first batch's rows: a loader may mix in others
MOVED, DOWN = 0.05, 0.2  # of a rate set by hand: it had moved by the save; and was not down yet, where cycles end


@dataclass(frozen=True, slots=True)
class Saved:
    """A model's training when it was saved: its optimizers' kinds and initial rates, and the rows fed until then.

    `rates`: of its one optimizer at its first step, and now; None where it has several. `step`: of the model's; `fit`:
    its Trainer's, with the model's `settings` when its first optimizer stepped first; `moves`: how many parameters each
    optimizer moved.
    """

    one: Watched
    model: weakref.ref[nn.Module]
    kinds: frozenset[tuple[str, float]]
    rows: frozenset[int]
    rates: tuple[float, float] | None = None
    again: bool = False  # some of the rows were fed twice, so that there is an end of them
    step: int = 0
    fit: Fit | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    moves: tuple[int, ...] = ()

    def other_rows(self, one: Watched) -> bool:
        """Whether a model is fed none of the rows that were fed again and again until the save."""
        if not self.again or one.attachment is None:
            return False
        return not any(row in self.rows for fed in one.attachment.loading.fed for row in fed.inputs)

    def last(self, content: Any) -> bool:
        """Whether the model was trained no more since, by this Trainer or another. `content`: of the file."""
        if (self.one.steps if self.one.attachment is None else self.one.recorder.step) != self.step:
            return False
        model, known = self.model(), prints(content)
        return model is None or all(print_of(p) in known for p in model.parameters())


@dataclass(frozen=True, slots=True)
class Going:
    """What a model trains on from, and how it stood before its first step. `optimizer`: which steps; `bare`: afresh."""

    saved: Saved
    path: str
    one: Watched
    seen: ResumeSeen
    optimizer: weakref.ref[Optimizer]
    bare: bool


class Resumes:
    """Follows checkpoints from saving to the first step after loading. `fault`: told of errors of our own."""

    def __init__(self, models: Models, saves: Saves, fault: Callable[[str], None]) -> None:
        self._models = models
        self._hook = lambda act: Hook(act, lambda error: fault(f"resume: {type(error).__name__}: {error}"))
        self._saved: dict[str, Saved] = {}
        self._names: dict[Known, str] = {}  # where something was saved, by what is in it
        self._followers, self.by_count = Followers(), ByCount()
        self._rates: weakref.WeakKeyDictionary[Optimizer, float] = weakref.WeakKeyDictionary()  # they were made with
        self._first: weakref.WeakKeyDictionary[Optimizer, float] = weakref.WeakKeyDictionary()  # of their first steps
        self._read: tuple[str, Any] | None = None  # the last checkpoint of our own that was read
        self._loaded: tuple[weakref.ref[nn.Module], str, Any] | None = None
        self.reads: list[Callable[[str, Any], None]] = []  # told of what torch.load read, and from where
        self._matching, self.parts = Matching(models, self._hook), InParts(models, self._hook)
        self.reads.append(self._matching.came)
        self._lost: dict[str, Tensor] = {}  # of the last checkpoint: what it holds for a module that did not get it
        self._settings: weakref.WeakKeyDictionary[nn.Module, dict[str, Any]] = weakref.WeakKeyDictionary()
        self._going: Going | None = None  # it is not known yet what it is trained on
        saves.told.append(self._wrote)
        models.attention.needs.append(self._needs)

    def install(self) -> None:
        """Notice from now on what is read, and into which module it goes."""
        read, load = torch.load, nn.Module.load_state_dict
        came, given = self._hook(self._came), self._hook(self._given)

        @functools.wraps(read)
        def reading(*args: Any, **kwargs: Any) -> Any:
            content = read(*args, **kwargs)
            came(args[0] if args else kwargs.get("f"), content)
            return content

        @functools.wraps(load)
        def loading(module: nn.Module, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
            result = load(module, state_dict, *args, **kwargs)
            given(module, state_dict, result)
            return result

        torch.load = torch.serialization.load = reading
        Notice({"safetensors.torch": self._safetensors}).install()
        nn.Module.load_state_dict = loading  # type: ignore[method-assign, assignment]
        self._models.before.append(self._hook(self._stepping))

    def _safetensors(self) -> None:
        module = sys.modules["safetensors.torch"]
        read, came = module.load_file, self._hook(self._came)

        @functools.wraps(read)
        def reading(filename: Any, *args: Any, **kwargs: Any) -> Any:
            content = read(filename, *args, **kwargs)
            came(filename, content)
            return content

        module.load_file = reading  # type: ignore[attr-defined]

    def _needs(self) -> bool:
        """Whether the next steps are to be heard."""
        return bool(self._read or self._loaded or self._going or self._followers.waiting or self.by_count.waiting)

    def _wrote(self, one: Watched, path: str, what: Any) -> None:
        """A model in training was saved."""
        if not one.recorder.step or one.attachment is None:
            return
        fed = [row for batch in one.attachment.loading.fed for row in batch.inputs]
        rows = frozenset(fed)
        name = os.path.abspath(path) if path else f"what was saved at step {one.recorder.step}"
        every = one.recorder.optimizers or self._stepped(one.recorder.model)  # those of a fit that is over are let go
        rates = (self._first.get(every[0], 0.0), highest(every[0], "lr")) if len(every) == 1 else None
        model = one.recorder.model
        self._saved[name] = Saved(
            one,
            weakref.ref(model),
            frozenset(map(self._kind, every)),
            rows,
            rates,
            len(fed) > len(rows),
            one.recorder.step,
            fit_of(model),
            self._settings.get(model, {}),
            tuple(map(moves, every)),
        )
        if (known := known_by(what)) is not None:
            self._names[known] = name
        if isinstance(what, Mapping) and tells_how_far(what):
            self._followers.saved(name, one.recorder.model)

    def _came(self, where: Any, content: Any) -> None:
        name = where if isinstance(where, str | os.PathLike) else getattr(where, "name", None)
        path = os.path.abspath(name) if isinstance(name, str | os.PathLike) else ""
        if path not in self._saved and self._names and (known := known_by(content)) is not None:
            path = self._names.get(known, path)
        for act in self.reads:
            act(path, content)
        if path in self._saved and isinstance(content, Mapping):
            self._read = (path, content) if bytes_of(content) <= LARGEST else None
            self._models.attention.listen()

    def _given(self, module: nn.Module, state: Mapping[str, Any], result: Any) -> None:
        inner = unwrapped(module)[1]
        watch_nothing_came(inner, state, result, self._read[0] if self._read else "", self._models, self._hook)
        self._matching.given(module, state)
        self.parts.given(inner, state)
        missing = tuple(getattr(result, "missing_keys", ()))
        if self._read is None:
            if missing:
                watch_half(inner, state, missing, self._models, self._hook)
            return
        path, content = self._read
        if not is_among(state, content):
            return
        self._read = None
        if tells_how_far(content):
            self._loaded, self._lost = (weakref.ref(inner), path, content), not_given(content, missing)
        if missing:
            watch_reload(inner, missing, self._saved[path].one, path, self._hook)

    def _stepping(self, optimizer: Optimizer) -> None:
        """The first step after weights were loaded: does it go on with all the rest?"""
        self._read = None
        if optimizer not in self._first:
            self._first[optimizer] = highest(optimizer, "lr")
            self._note_settings(optimizer)
        self._followers.stepping(optimizer)
        self.by_count.stepping(optimizer)
        if self._going is not None and self._going.optimizer() in (optimizer, None):
            self._judge(self._going)
            self._going = None
        if self._loaded is None:
            return
        ref, path, content = self._loaded
        module, saved = ref(), self._saved[path]
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if module is not None and not any(id(p) in held for p in module.parameters()):
            return  # another model's
        self._loaded = None
        one = next((one for one in self._models.live if one.recorder.model is module), None)
        if one is None or one.attachment is None:
            return
        known = prints(content)
        if moments_among(optimizer, known):
            self._followers.loaded(path, one, ResumeSeen(one.recorder.step, path, ("optimizer",), ("optimizer",)))
        if self._kind(optimizer) not in saved.kinds or is_tuning(optimizer, known):
            return
        model, step, schedules = one.recorder.model, one.recorder.step, schedules_of(optimizer)
        seen = resume(content, model, [optimizer], schedules, Path(path), step, rates=bool(schedules))
        seen = with_lost(_of_parts(seen, any(schedule.last_epoch > 1 for schedule in schedules)), model, self._lost)
        if not seen.differ and "optimizer" in seen.compared and (again := self.begins_anew(optimizer, saved)):
            seen = replace(seen, differ=(("rate", again),))
            self.by_count.begins(one, optimizer, seen, content.values(), known, saved.rows, saved.step)
        if saved.fit is not None or fit_of(model) is not None:
            began = saved.settings == self._settings.get(model, {}) and saved.last(content)
            told = of_a_trainer(seen, saved.fit, fit_of(model), content, optimizer) if began else None
            if told is None:
                return
            seen = told
        bare = keeps_state(optimizer) and not optimizer.state
        self._going = Going(saved, path, one, seen, weakref.ref(optimizer), bare)
        if self._judge(self._going):
            self._going = None  # else the step itself runs the forward pass, in a closure

    def _judge(self, going: Going) -> bool:
        """Show it, if it is trained on the same rows. Whether it was fed anything yet."""
        one, saved = going.one, going.saved
        if one.attachment is None:
            return True
        one.recorder.mailbox.open(wait=True)
        fed = one.attachment.loading.fed
        rows = fed[-1].inputs if fed else ()
        if not rows or sum(row in saved.rows for row in rows) < SAME * len(rows):
            return bool(fed)
        if going.bare and moves(going.optimizer()) not in saved.moves:
            return True  # some were frozen then, or are now
        self.by_count.ends()
        one.attachment.show(going.seen)
        if not going.seen.differ:
            self._followers.loaded(going.path, one, going.seen)
        return True

    def _stepped(self, model: nn.Module) -> list[Optimizer]:
        mine = {id(p) for p in model.parameters()}
        return [one for one in self._first if any(id(p) in mine for g in one.param_groups for p in g["params"])]

    def _note_settings(self, optimizer: Optimizer) -> None:
        """What a Trainer's model was made with, before it is trained: what counts in it begins alike."""
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for one in self._models.live:
            model = one.recorder.model
            if fit_of(model) is not None and any(id(p) in held for p in model.parameters()):
                self._settings.setdefault(model, settings_of(model))

    def saved(self, path: str) -> Saved | None:
        """What this process saved there last, of a model in training."""
        return self._saved.get(path)

    def other_run(self, saved: Saved, one: Watched, optimizer: Optimizer) -> bool:
        """Whether what was saved is not what a model goes on from: it is the one that was saved, which trains on, or
        its optimizer is of another kind or rate."""
        return saved.model() is one.recorder.model or self._kind(optimizer) not in saved.kinds

    def made(self, optimizer: Optimizer) -> None:
        """An optimizer was made: its rate may be set anew by hand at each step."""
        self._hook(self._made)(optimizer)

    def _made(self, optimizer: Optimizer) -> None:
        self._rates[optimizer] = rate_of(optimizer)

    def begins_anew(self, optimizer: Optimizer, saved: Saved) -> str:
        """Whether the script sets the rate by a count of its own, which the resumed run did not get.

        Where the rate was down when it was saved, a new cycle may begin.
        """
        first, last = saved.rates or (0.0, 0.0)
        now, base = highest(optimizer, "lr"), self._rates.get(optimizer, 0.0)
        moved = abs(first - last) > MOVED * max(first, last)
        if schedules_of(optimizer) or not first or now != first or not moved or last < DOWN * max(first, base):
            return ""
        return f"it begins anew at {now:g}, as the first step did, where it was {last:g}"

    def _kind(self, optimizer: Optimizer) -> tuple[str, float]:
        return type(optimizer).__name__, self._rates.get(optimizer, rate_of(optimizer))


def _of_parts(seen: ResumeSeen, set_forward: bool) -> ResumeSeen:
    """Only what can be told at the first step. A schedule that was made at its position needs no saving."""
    live = tuple(part for part in seen.live if part != "schedule" or "schedule" in seen.saved or not set_forward)
    differ = tuple(one for one in seen.differ if one[0] in PARTS)
    return replace(seen, live=live, differ=differ)
