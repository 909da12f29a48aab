"""Runs a script's evaluation once more, with the truth for what the model says: scores need no function of their own.

While the model is judged, some batches of the loader and what the model gave for them are kept, and which code of the
script's was at work. Afterwards the innermost of it that makes a number is built anew (see `replica.py`), as a function
or cut out of what is around it (`cuttings.py`), with those batches for a loader and a list of answers for a model. So
no module runs and no data is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sized
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from sightline.attach.script.scoring.asking import alone
from sightline.attach.script.scoring.batches import copied, fits, likely, rows, tensors
from sightline.attach.script.scoring.cuttings import cuttings
from sightline.attach.script.scoring.last_alone import last_alone
from sightline.attach.script.scoring.ranked import ranked
from sightline.attach.script.scoring.readings import reading
from sightline.attach.script.scoring.recorded import Recorded
from sightline.attach.script.scoring.rescaled import rescaled
from sightline.attach.script.scoring.shares import overcounted
from sightline.attach.script.scoring.short import PART, short
from sightline.attach.script.scoring.stage import Piece, Stage
from sightline.attach.script.scoring.steps import stepped
from sightline.attach.script.scoring.verdict import Verdict, judged

BATCHES = 8  # that are run again
LATE = "labels one place later"
CUTS = 3  # of one function, the most around the call first

Found = dict[tuple[str, str], Verdict]
Score = Callable[[Tensor, Tensor], dict[str, float]]


def pieces(record: Recorded) -> Iterator[Piece]:
    """What may be run again: functions as they are, the innermost first; then what can be cut out of them."""
    for place in record.places:
        if place.values is not None:
            yield Piece(place.code, place.namespace, place.free, place.values, place.line)
    for place in record.places:
        for number, code in enumerate(cuttings(place.code, place.line, place.names)):
            if number < CUTS:
                yield Piece(code, place.names, {}, {}, place.line)


def replayed(
    record: Recorded, own: Callable[[str], bool], until: float, pad: int | None = None
) -> tuple[Piece, Verdict] | None:
    """What the evaluation reads wrong, if that is clear from the answers of its own code."""
    ways = [_of_batches] if record.paired else []
    if not record.paired or len(record.told) == 1:  # the batch may be the last that was trained on
        ways.append(_of_labels)
    for piece in pieces(record):
        for way in ways:
            with alone(), suppress(Exception):  # the script's own code, with other things than it was made for
                found = way(record, Stage(record, piece, own, until, paired=way is _of_batches), pad)
                if found:
                    return piece, next(iter(found.values()))
        for law in (overcounted, last_alone) if record.whole and record.paired and len(record.told) > 1 else ():
            with alone(), suppress(Exception):
                share = law(record, Stage(record, piece, own, until, paired=True))
                if share is not None:
                    return piece, share
        with alone(), suppress(Exception):
            if (step := stepped(record, piece, own, until)) and (
                found := _of_labels(*step, pad, _all(*step[0].told[0], record))
            ):
                return piece, next(iter(found.values()))
    return None


def _of_batches(record: Recorded, stage: Stage, pad: int | None) -> Found:
    """Labels come with the inputs, from a loader."""
    told = record.told[:BATCHES]
    if not stage.score([output for _, output in told], [batch for batch, _ in told]):
        return {}
    found: Found = {}
    came = sum(rows(batch) for batch, _ in told)  # of fewer than there are, a share of all falls short
    every = record.whole and len(told) == len(record.told) and _size(record.dataset) == came
    for one, label in likely(*told[0]):
        shapes = [(tensors(o)[one].shape[1:], tensors(b)[label].shape[1:]) for b, o in told]
        alike = [pair for pair, shape in zip(told, shapes, strict=True) if shape == shapes[0]]
        parts = [tensors(batch)[label] for batch, _ in alike]
        outputs = [output for _, output in alike]
        if [len(tensors(o)[one]) for o in outputs] != [len(part) for part in parts]:
            continue
        target = torch.cat([part.to(tensors(outputs[0])[one].device) for part in parts])

        def score(
            these: Tensor, those: Tensor, one: int = one, label: int = label, alike: list[Any] = alike
        ) -> dict[str, float]:
            sizes = [len(tensors(batch)[label]) for batch, _ in alike]
            kind = tensors(alike[0][0])[label].dtype
            right = zip(alike, those.to(kind).split(sizes), strict=True)
            batches = [copied(batch, label, part) for (batch, _), part in right]
            return stage.score(_answers([o for _, o in alike], one, these), batches)

        found |= _no_copies(record, target, _compared(outputs, one, target, score, pad, every))
    return found


def _size(dataset: Any) -> int | None:
    return len(dataset) if isinstance(dataset, Sized) else None


def _all(batch: Any, _: Any, record: Recorded) -> bool:
    """Whether this is all that was evaluated."""
    return record.whole and rows(batch) == sum(rows(one) for one, _ in record.told) == _size(record.dataset)


def _of_labels(record: Recorded, stage: Stage, pad: int | None, every: bool = True) -> Found:
    """Labels are somewhere that the code reads. `every`: these are all that was evaluated."""
    outputs = [output for _, output in record.told]
    if not record.whole or not stage.held or not stage.score(outputs):
        return {}
    found: Found = {}
    for place, parts in enumerate(stage.held):
        target = torch.cat(parts).clone()
        for one, said in enumerate(tensors(outputs[0])):
            whole = [tensors(output)[one] for output in outputs]
            if not said.dim() or len({t.shape[1:] for t in whole}) != 1 or not fits(torch.cat(whole), target):
                continue

            def score(these: Tensor, those: Tensor, one: int = one, place: int = place) -> dict[str, float]:
                return stage.score(_answers(outputs, one, these), held=place, truth=those)

            found |= _no_copies(record, target, _compared(outputs, one, target, score, pad, every))
    return found


def _no_copies(record: Recorded, target: Tensor, found: Found) -> Found:
    """Who says what it was given, as an untrained model of tied weights does, does not show that it is to say that."""
    copied = any(says == LATE for _, says in found) and record.asked_of(target)
    return {key: one for key, one in found.items() if not copied or key[1] != LATE}


def _answers(outputs: list[Any], one: int, these: Tensor) -> list[Any]:
    """`outputs` with the rows of `these` for their tensor number `one`."""
    kind, sizes = tensors(outputs[0])[one].dtype, [len(tensors(output)[one]) for output in outputs]
    said = these.to(kind).split(sizes)
    return [copied(output, one, part) for output, part in zip(outputs, said, strict=True)]


def _compared(outputs: list[Any], one: int, target: Tensor, score: Score, pad: int | None, every: bool) -> Found:
    """What comes of the truth in the tensor number `one` of what the model says, where `target` is it.

    `every`: these are all that was evaluated.
    """
    pred = torch.cat([tensors(output)[one].detach() for output in outputs])
    if pred.shape == target.shape or pred.numel() != target.numel():
        return _judged(pred, target, score, pad, every)
    seen_to = pred.reshape(target.shape)  # by the code, or by nobody

    def reshaped(these: Tensor, those: Tensor) -> dict[str, float]:
        return score(these.reshape(pred.shape), those)

    return _judged(seen_to, target, reshaped, pad, every) or _judged(pred, target, score, pad, every)


def _judged(pred: Tensor, target: Tensor, score: Score, pad: int | None, every: bool) -> Found:
    read = reading(pred, target)
    if read is None:
        return rescaled(pred, target, score) or ranked(pred, target, score)
    others = tuple(other for other in read.others if other.target.shape == target.shape)
    found = judged(type(read)(read.truth, others, read.share), pred, target, score, set()) if others else {}
    found = found or ranked(pred, target, score)
    if not found and every:
        less = short(read.truth, target, score, pad)
        found = {key: verdict for key, verdict in less.items() if key[1] == PART}
        if len(found) < len(less):
            return {key: verdict for key, verdict in less.items() if key[1] != PART}
    right = score(read.truth, target) if found else {}
    return {} if any(abs(value - 1) < 1e-3 or abs(value - 100) < 0.1 for value in right.values()) else found
