"""Notices a run that goes on with a checkpoint's weights, and without the optimizer's state or its schedule's place.

Loading weights alone is no resume: they may be tuned, on other data or for another task, by an optimizer made for that.
It is one when what is trained is what the file's optimizer was made for, whole and with the same settings, and the run
itself goes on: with the file's random numbers, or with a count that goes on from the file's. Then an optimizer that has
no state, or a schedule at its beginning, was forgotten: also where the file does not hold the schedule, but an
optimizer whose rate was that schedule's, and which came back number for number; where it holds no optimizer at all; and
where it holds but one of two that moved its weights, and that one came back.
Which parts a file holds is known by torch's own structure of them, and where they went by their values; no name counts.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from sightline.attach.hook import Hook
from sightline.attach.onlookers.schedule import schedules_of
from sightline.attach.script.again import print_of
from sightline.attach.script.checkpoints.contents import moments_among
from sightline.attach.script.checkpoints.counters import LONG, Counters
from sightline.attach.script.checkpoints.makes import as_list, is_plain, moves, same_make
from sightline.attach.script.checkpoints.places import STARTED, Restarted, restarted
from sightline.attach.script.checkpoints.read import Pieces, Read, read_of
from sightline.attach.script.checkpoints.resumes import Resumes, Saved
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import ResumeSeen
from sightline.guard.probes.resume import keeps_state

ALONG = 0.05  # of the saved rate: a schedule of the script's own that is as near goes on, whatever its count
PATIENCE = 16  # steps of other optimizers until a file that was read is forgotten
BARE = 3  # files without an optimizer that are kept in mind
MOVING = {"last_epoch", "_step_count", "_last_lr", "T_cur", "T_i", "best", "num_bad_epochs", "cooldown_counter"}


@dataclass(eq=False)
class Going:
    """A run that may go on from what was read, without all of it. `proof`: what tells that it does; `saved`: what was
    there when it was read, if this process wrote it.

    `lost`: what did not come back; nothing yet where a schedule began `anew`, until that shows in the rate; and nothing
    where the file holds no optimizer.
    """

    read: Read
    optimizer: weakref.ref[Optimizer]
    lost: tuple[tuple[str, str], ...]
    counters: Counters
    saved: Saved | None
    proof: str = ""
    anew: Restarted | None = None
    waited: int = 0


class Unrestored:
    """Follows a file from where it is read until the run is known to go on from it."""

    def __init__(self, models: Models, resumes: Resumes, fault: Callable[[str], None]) -> None:
        self._models, self._resumes = models, resumes
        self._hook = lambda act: Hook(act, lambda error: fault(f"resume: {type(error).__name__}: {error}"))
        self._reads: list[Read] = []
        self._going: list[Going] = []
        self._pieces = Pieces(lambda path: resumes.saved(path) is not None)
        resumes.reads.append(self._came)
        models.attention.needs.append(lambda: bool(self._reads or self._going or self._pieces.waiting))
        models.before.append(self._hook(self._stepping))

    def install(self) -> None:
        """Notice from now on which random numbers a script sets."""
        set_, came = torch.set_rng_state, self._hook(self._drawn)

        @functools.wraps(set_)
        def setting(new_state: Tensor) -> None:
            set_(new_state)
            came(new_state)

        torch.set_rng_state = setting

    def _came(self, path: str, content: Any) -> None:
        whole = read_of(path, content)
        piece = self._pieces.joined(path, content)
        found = piece if piece is not None and (whole is None or piece.optimizers) else whole
        if found is None:
            if self._pieces.waiting:
                self._models.attention.listen()
            return
        if found.optimizers:
            self._reads, self._going = [found], []
        else:
            others = [read for read in self._reads if read.prints != found.prints]
            self._reads = [*others[-BARE + 1 :], found]
        self._models.attention.listen()

    def _drawn(self, state: Tensor) -> None:
        for read in self._reads:
            read.drawn |= any(torch.equal(one, state.cpu()) for one in read.random)

    def _stepping(self, optimizer: Optimizer) -> None:
        for run in list(self._going):
            if run.optimizer() is optimizer:
                run.proof = run.proof or run.counters.stepped()
                self._tell(run, optimizer)
            elif run.optimizer() is None:
                self._going.remove(run)
        self._pieces.clear()
        for read in self._reads:
            read.waited += 1
            if optimizer not in read.judged:
                self._first(read, optimizer)
        self._reads = [read for read in self._reads if read.waited < PATIENCE]

    def _first(self, read: Read, optimizer: Optimizer) -> None:
        """The first step after a file was read: of what was trained as it was saved?"""
        held = [p for group in optimizer.param_groups for p in group["params"]]
        if not held or not all(print_of(p) in read.prints for p in held):
            return
        read.judged.add(optimizer)
        kept = [one for one in read.optimizers if same_make(one, optimizer)]
        if not kept and read.several:
            self._by_count(read, optimizer)
        if not kept and (not keeps_state(optimizer) or _has_state(optimizer)):
            return
        if not kept and read.optimizers:
            read.bare.append((weakref.ref(optimizer), moves(optimizer)))
            self._beside(read)
            return
        lost = _lost(read, kept, optimizer) if kept else ()
        anew = self._anew(read, kept, optimizer) if kept and not lost else None
        if kept and moments_among(optimizer, read.prints):
            read.whole.append(moves(optimizer))
        self._beside(read)
        if kept and not lost and anew is None:
            self._whole(read, optimizer)
            return
        self._goes_on(read, optimizer, kept, lost, anew)

    def _beside(self, read: Read) -> None:
        """Optimizers of what the file holds that began without a state, beside another one that came back whole."""
        saved = self._resumes.saved(read.path)
        while read.whole and saved is not None and read.bare:
            optimizer, count = read.bare.pop()
            then = saved.moves.count(count) > read.whole.count(count)  # else what it moves was frozen
            if (made := optimizer()) is not None and then:
                what = "it has no state, and the file holds that of another optimizer alone"
                self._goes_on(read, made, (), (("optimizer", what),), None)

    def _goes_on(
        self,
        read: Read,
        optimizer: Optimizer,
        kept: Sequence[Mapping[str, Any]],
        lost: tuple[tuple[str, str], ...],
        anew: Restarted | None,
    ) -> None:
        taken = {one["steps"] for one in kept} | {one["last_epoch"] for one in read.schedules}
        proof = "it draws on with the saved random numbers" if read.drawn else _on_its_schedule(read, optimizer)
        counters, saved = Counters(read.numbers, frozenset(taken)), self._resumes.saved(read.path)
        run = Going(read, weakref.ref(optimizer), lost, counters, saved, proof, anew)
        self._going.append(run)
        self._tell(run, optimizer)

    def _anew(self, read: Read, kept: Sequence[Mapping[str, Any]], optimizer: Optimizer) -> Restarted | None:
        """The schedule that the file does not hold and that begins anew, of an optimizer that came back whole."""
        plans = [schedule.state_dict() for schedule in schedules_of(optimizer)]
        if any(_same_plan(one, plan) for one in read.schedules for plan in plans):
            return None
        if len(kept) != 1 or not moments_among(optimizer, read.prints):
            return None
        return restarted(kept[0], optimizer, (kept[0]["steps"], *sorted(read.numbers)))

    def _tell(self, run: Going, optimizer: Optimizer) -> None:
        if run.anew is not None and not run.lost:
            what = run.anew.tells(optimizer)
            if what is None or run.anew.steps >= LONG:
                self._going.remove(run)
                return
            run.lost = (("schedule", what),) if what else ()
        if not run.proof or (run.anew is not None and not run.lost):
            if not run.proof and not run.counters.waiting:
                self._going.remove(run)
            return
        one = self._watched(optimizer)
        run.waited += 1
        if (one is None or one.attachment is None) and run.waited < PATIENCE:
            return  # the model is not known yet
        self._going.remove(run)
        if one is None or one.attachment is None:
            return
        if one.adopted or (run.saved is not None and run.saved.other_rows(one)):
            return
        if run.lost:
            part, what = run.lost[0]
            differ = ((part, f"{what}, while the run goes on: {run.proof}"), *run.lost[1:])
            one.attachment.show(_seen(run.read, one, tuple(part for part, _ in run.lost), differ))
        elif run.saved is None or not self._resumes.other_run(run.saved, one, optimizer):
            seen = _seen(run.read, one, ("weights",), ())
            one.attachment.show(replace(seen, live=("weights", "optimizer")))

    def _whole(self, read: Read, optimizer: Optimizer) -> None:
        """Say that nothing is missing, where what the optimizer keeps came from the file, number for number."""
        one = self._watched(optimizer)
        if one is None or one.attachment is None or one.adopted:
            return
        if moments_among(optimizer, read.prints):
            one.attachment.show(_seen(read, one, ("optimizer",), ()))

    def _by_count(self, read: Read, optimizer: Optimizer) -> None:
        """A checkpoint in several files came back, and the rate that a count of the script's sets may begin anew."""
        one, saved = self._watched(optimizer), self._resumes.saved(read.path)
        if one is None or saved is None or self._resumes.other_run(saved, one, optimizer):
            return
        if again := self._resumes.begins_anew(optimizer, saved):
            seen = _seen(read, one, ("optimizer",), (("rate", again),))
            self._resumes.by_count.begins(one, optimizer, seen, read.numbers, read.prints, saved.rows, saved.step)

    def _watched(self, optimizer: Optimizer) -> Watched | None:
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        live = (one for one in self._models.live if any(id(p) in held for p in one.recorder.model.parameters()))
        return next(live, None)


def _seen(read: Read, one: Watched, parts: tuple[str, ...], differ: tuple[tuple[str, str], ...]) -> ResumeSeen:
    saved = ("weights", *["optimizer"] * bool(read.optimizers), *["schedule"] * bool(read.schedules))
    return ResumeSeen(one.recorder.step, read.path, saved, ("weights", *parts), parts, differ)


def _lost(read: Read, kept: Sequence[Mapping[str, Any]], optimizer: Optimizer) -> tuple[tuple[str, str], ...]:
    """What the file holds for this optimizer and its schedule, of which nothing reached them."""
    found = []
    moments = min(one["moments"] for one in kept)
    if moments and not _has_state(optimizer):
        found.append(("optimizer", f"it has no state, where {moments} parameters' moments were saved"))
    rates = [float(one["groups"][0].get("lr", 0.0)) for one in kept]
    now = float(optimizer.param_groups[0].get("lr", 0.0))
    along = any(abs(rate - now) <= ALONG * rate for rate in rates)
    for schedule in schedules_of(optimizer):
        places = [one["last_epoch"] for one in read.schedules if _same_plan(one, schedule.state_dict())]
        at = schedule.last_epoch
        if places and at <= STARTED and min(places) > at + STARTED and not (along and _by_the_script(schedule)):
            found.append(("schedule", f"it stands at {at}, where it was saved at {min(places)}"))
            break
    return tuple(found)


def _has_state(optimizer: Optimizer) -> bool:
    return any(optimizer.state.get(p) for group in optimizer.param_groups for p in group["params"])


def _on_its_schedule(read: Read, optimizer: Optimizer) -> str:
    """Whether a schedule of the optimizer goes on from where the file has it."""
    for schedule in schedules_of(optimizer):
        at = schedule.last_epoch
        if at > STARTED and any(
            one["last_epoch"] == at and _same_plan(one, schedule.state_dict()) for one in read.schedules
        ):
            return f"its schedule goes on at {at}"
    return ""


def _same_plan(kept: Mapping[str, Any], live: Mapping[str, Any]) -> bool:
    if set(kept) != set(live):
        return False
    plain = [name for name in live if name not in MOVING and is_plain(live[name])]
    return all(is_plain(kept[name]) and as_list(kept[name]) == as_list(live[name]) for name in plain)


def _by_the_script(schedule: Any) -> bool:
    """Whether the script's own code tells the rate, which may know of a count beside the schedule's."""
    parts = [schedule, *getattr(schedule, "_schedulers", ())]
    return any(hasattr(p, "lr_lambdas") or type(p).__module__ != "torch.optim.lr_scheduler" for p in parts)
