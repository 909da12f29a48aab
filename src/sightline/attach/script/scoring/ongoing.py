"""Is a score one of the evaluations before, too, because the object of the script's that counts is never set back?

Such an object is followed from evaluation to evaluation of the same rows. Where one begins with just what the last one
left there, it is run again (see `replay.py`) from that, from nothing, and from what it adds itself: what is added up,
and leaves the score as it was when it is there twice, is a mean's sums; carried over, they bring old answers into it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch

from sightline.attach.script.scoring.asking import alone
from sightline.attach.script.scoring.batches import rows
from sightline.attach.script.scoring.meters import Fields, Meter, fields, nought, whole
from sightline.attach.script.scoring.recorded import Recorded
from sightline.attach.script.scoring.replay import pieces
from sightline.attach.script.scoring.stage import PRINTED, Piece, Stage
from sightline.guard.evidence import UnresetSeen

SAME, OTHER = 1e-5, 1e-4  # relative, of two scores
Own = Callable[[str], bool]
Scores = dict[str, float]


@dataclass(frozen=True)
class Left:
    """What an object held when an evaluation was over, and of what that was."""

    owner: weakref.ref[Any]
    model: weakref.ref[Any]
    dataset: weakref.ref[Any]
    ended: Fields
    step: int


class Ongoing:
    """All evaluations of the process."""

    def __init__(self) -> None:
        self._left: dict[int, Left] = {}

    def carried(self, record: Recorded, own: Own, step: int, until: float) -> UnresetSeen | None:
        """The score that goes on from the evaluation before, with training in between."""
        found = None
        for meter in record.meters if record.whole and record.paired and len(record.told) > 1 else ():
            before, ended = self._left.get(id(meter.owner)), fields(meter.owner)
            with suppress(TypeError):  # lists have no weak references
                owner, dataset = weakref.ref(meter.owner), weakref.ref(record.dataset)
                self._left[id(meter.owner)] = Left(owner, weakref.ref(record.model), dataset, ended, step)
            if found is None and before is not None and _goes_on(before, meter, record, step):
                found = _of_both(record, meter, ended, own, until)
        return UnresetSeen(step, *found) if found is not None else None


def _goes_on(before: Left, meter: Meter, record: Recorded, step: int) -> bool:
    pairs = ((before.owner, meter.owner), (before.model, record.model), (before.dataset, record.dataset))
    same = all(one() is other for one, other in pairs)
    kept = before.ended.keys() == meter.begun.keys() and all(_equal(v, before.ended[n]) for n, v in meter.begun.items())
    return same and kept and step > before.step + 1


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(whole(one), whole(other))


def _of_both(record: Recorded, meter: Meter, ended: Fields, own: Own, until: float) -> tuple[str, int, int] | None:
    """Which score counts answers of before along, how many these are, and how many there are now."""
    if not any(bool(whole(value).any()) for value in meter.begun.values()):
        return None
    for piece in pieces(record):
        with alone(), suppress(Exception):  # the script's own code, from other counts than it was made for
            again = _Again(record, meter, piece, own, until)
            if (found := next(_means(again, ended, record), None)) is not None:
                name, before, now = found
                return f"{type(meter.owner).__name__} {name}".strip() + f" ({piece.where})", before, now
    return None


@dataclass(frozen=True)
class _Again:
    """Runs the evaluation from what a meter may hold."""

    record: Recorded
    meter: Meter
    piece: Piece
    own: Own
    until: float

    def __call__(self, begun: Fields) -> tuple[Scores, Fields]:
        """The scores, and what the meter holds then."""
        owner = self.meter.owner
        states = {id(owner): {**vars(owner), **begun}}
        stage = Stage(self.record, self.piece, self.own, self.until, paired=True, states=states)
        told = stage.score([output for _, output in self.record.told], [batch for batch, _ in self.record.told])
        after = stage.state(owner)
        ended = {name: after.get(name, value) for name, value in begun.items()}
        return {name: value for name, value in told.items() if not name.startswith(PRINTED)}, ended


def _means(again: _Again, ended: Fields, record: Recorded) -> Iterator[tuple[str, int, int]]:
    begun, count = again.meter.begun, sum(rows(batch) for batch, _ in record.told)
    real, after = again(begun)
    changed = [name for name, value in begun.items() if not _equal(value, after[name])]
    if not real or any(whole(begun[name]).numel() % count == 0 for name in changed):
        return  # one for each row: the answers themselves are gathered
    blank = {**begun, **{name: nought(begun[name]) for name in changed}}
    anew, alone_ = again(blank)
    sums = [name for name in changed if _adds(begun[name], after[name], alone_[name], ended[name])]
    counts = [name for name in sums if _counts(begun[name], alone_[name], len(record.told))]
    names = [name for name in real if name in anew and not isclose(real[name], anew[name], rel_tol=OTHER)]
    if not counts or not names:
        return
    part = again({**blank, **{name: begun[name] for name in sums}})[0]
    twice = again({**blank, **{name: alone_[name] for name in sums}})[0]
    for name in names:
        if _close(part, real, name) and _close(twice, anew, name):
            for one in counts:
                if not _close(_or_nothing(again, {**begun, one: blank[one]}), real, name):
                    yield name, round(float(whole(begun[one]).sum())), round(float(whole(alone_[one]).sum()))


def _adds(begun: Any, after: Any, alone_: Any, ended: Any) -> bool:
    """Whether as much is added to what was there as to nothing, and as much as was added when it was evaluated."""
    begun, after, alone_, ended = map(whole, (begun, after, alone_, ended))
    if not begun.shape == after.shape == alone_.shape == ended.shape:
        return False
    return all(torch.allclose(one, begun + alone_, rtol=SAME, atol=0) for one in (after, ended))


def _counts(begun: Any, alone_: Any, least: int) -> bool:
    """Whether it holds a whole number of evaluations such as this one: of so many batches, rows or pixels."""
    many, now = float(whole(begun).sum()), float(whole(alone_).sum())
    return now == round(now) >= least and many >= now and many % now == 0


def _close(one: Scores, other: Scores, name: str) -> bool:
    return name in one and isclose(one[name], other[name], rel_tol=SAME)


def _or_nothing(again: _Again, begun: Fields) -> Scores:
    try:
        return again(begun)[0]
    except ArithmeticError:
        return {}
