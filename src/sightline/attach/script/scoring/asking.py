"""Asks a script's own function what it thinks of the truth, in the form in which predictions come."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from types import CodeType
from typing import Any

import torch

from sightline.attach.script.scoring.callers import scaled
from sightline.attach.script.scoring.opposed import opposed
from sightline.attach.script.scoring.order import reordered
from sightline.attach.script.scoring.pairs import Data, Function, Pair
from sightline.attach.script.scoring.prompts import fronted
from sightline.attach.script.scoring.ranked import ranked
from sightline.attach.script.scoring.readings import Reading, normalised, reading
from sightline.attach.script.scoring.recorded import Recorded
from sightline.attach.script.scoring.replica import Replica
from sightline.attach.script.scoring.rescaled import in_target_unit, rescaled
from sightline.attach.script.scoring.short import ABSENT, PART, short
from sightline.attach.script.scoring.verdict import Verdict, judged, numbers, perfect, whole
from sightline.attach.units import speaks
from sightline.guard.evidence import IGNORE
from sightline.guard.probes.restore import same_randomness

TWICE = 2  # evaluations in which a function has answered well: it will in the others


def asked(
    function: Function,
    own: Callable[[str], bool],
    until: float,
    drawn: Iterable[Recorded] = (),
    pad: int | None = None,
) -> Verdict | None:
    """What the function reads wrong, if all calls of it that can be told of agree.

    `drawn`: what came of loaders that give their rows in another order each time. `pad`: the class that the loss that
    is trained on leaves out.
    """
    pairs = _joined(function.now) if function.now and function.now[0].single else function.now
    before = _joined(function.before) if function.before and function.before[0].single else function.before
    told: list[Answer] = []
    for place, one in enumerate(pairs):
        earlier = before[place] if place < len(before) else None
        roles = _roles(one, earlier)
        if (roles is None and not _vectors(one, earlier)) or time.thread_time() > until:
            continue
        try:
            with torch.no_grad():
                read = _reading(pairs, one, earlier, *roles, drawn) if roles is not None else None
            units = TWICE if read is not None or roles is None else _in_units((one, earlier), *roles)
            answer = _truth(function, own, one, *(roles or one.names), until, read, pad) if units else None
        except Exception:  # noqa: BLE001 - the script's own function, on other input than it was made for
            return None
        if answer is not None:
            sure = {key: verdict for key, verdict in answer.found.items() if units == TWICE or not verdict.twice}
            told.append(replace(answer, found=sure))
    function.answered += bool(told)
    function.done = function.answered >= TWICE
    found = {key: verdict for answer in reversed(told) for key, verdict in answer.found.items()}
    return next((verdict for key, verdict in found.items() if all(answer.allows(key) for answer in told)), None)


@dataclass(frozen=True)
class Answer:
    """What came of one call. `found`: by number and mistaken form. Of texts, where there is nothing: all `forms`, and
    those that are `perfect`; one that changes next to no text is none.
    """

    found: Mapping[tuple[str, str], Verdict]
    perfect: frozenset[str] = frozenset()
    forms: frozenset[str] | None = None

    def allows(self, key: tuple[str, str]) -> bool:
        """Whether that may be wrong: it is here, too, or nothing speaks against it in these (answers of one kind)."""
        return key in self.found or key[1] in self.perfect or (self.forms is not None and key[1] not in self.forms)


def _truth(
    function: Function,
    own: Callable[[str], bool],
    one: Pair,
    pred: str,
    target: str,
    until: float,
    read: Reading | None,
    pad: int | None,
) -> Answer | None:
    rows = {name: data.rows for name, data in one.data.items()}
    if read is not None and not (read.others or isinstance(read.truth, list)):
        return None
    built = Replica(own)
    metric = built.of(function.code, function.namespace, function.free)
    if built.changes:
        return None  # what it says depends on what it was asked before
    rest = {name: built.argument(value) for name, value in one.values.items()}

    def score(these: Any, those: Any) -> dict[str, float]:
        if time.thread_time() > until:
            raise TimeoutError
        return _scored(metric, function.code, rest, one, {**rows, pred: these, target: those})

    with alone():
        if read is None:
            laws = (opposed, rescaled, ranked)
            return Answer({key: v for law in laws for key, v in law(rows[pred], rows[target], score).items()})
        if isinstance(read.truth, list) and read.truth == rows[target]:
            read = replace(read, others=(*read.others, *normalised(read, rows[target], built.makers())))
        counts = _counts(rows[target])
        found = judged(read, rows[pred], rows[target], score, counts)
        if not isinstance(read.truth, list):
            found = found or ranked(rows[pred], rows[target], score)
            return Answer(found) if found else _short(function, read, one, target, score, pad)
        if found:
            return Answer(found)
        return Answer(found, perfect(read, score, counts), frozenset(one.says for one in read.others))


def _short(
    function: Function,
    read: Reading,
    one: Pair,
    target: str,
    score: Callable[[Any, Any], dict[str, float]],
    pad: int | None,
) -> Answer:
    """Of a metric that reads the right thing: whether the truth is the whole for it, and why not."""
    rows = one.data[target].rows
    if one.count > len(rows):
        return Answer({})  # classes may be missing that were there
    found = short(read.truth, rows, score, pad)
    parts = any(law == PART for _, law in found) and scaled(function.code.co_filename, function.code.co_name)
    found = {key: verdict for key, verdict in found.items() if key[1] != PART or not parts}
    every = not found and all(whole(value, set()) for value in score(read.truth, rows).values())
    return Answer(found, perfect=frozenset((ABSENT,)) if every else frozenset())


def _reading(
    pairs: list[Pair], one: Pair, before: Pair | None, pred: str, target: str, drawn: Iterable[Recorded]
) -> Reading | None:
    these, those = one.data[pred].rows, one.data[target].rows
    found = fronted(these, those, one.leads) if one.leads else None
    if one.tallies and before is not None and _equal(one, before, target):
        found = reordered(these, those, one.tallies.get(target), drawn)
        if found is not None and any(_holds(each, found.truth) for each in pairs):
            found = None  # it was given the labels in this order too: the others are beside them by intent
    return found or reading(these, those)


def _holds(one: Pair, truth: torch.Tensor) -> bool:
    tensors = [data.rows for data in one.data.values() if isinstance(data.rows, torch.Tensor)]
    return any(rows.shape == truth.shape and torch.equal(rows.to(truth), truth) for rows in tensors)


def _scored(metric: Any, code: CodeType, rest: dict[str, Any], one: Pair, rows: dict[str, Any]) -> dict[str, float]:
    """What the metric says of `rows`, row by row or at once."""
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    def called(given: dict[str, Any]) -> Any:
        values = {name: given[name] if name in given else rest[name] for name in names}
        in_place = [values.pop(name) for name in names[: code.co_argcount]]
        return metric(*in_place, **values)

    if not one.single:
        copies = {n: v.clone() if isinstance(v, torch.Tensor) else list(v) for n, v in rows.items()}
        count = len(copies[one.names[0]])
        return numbers(called({name: one.data[name].restored(copy) for name, copy in copies.items()}), count)
    told = []
    for each in zip(*rows.values(), strict=True):
        row = zip(rows, each, strict=True)
        given = {n: one.data[n].restored([v] if isinstance(v, str) else v.clone()) for n, v in row}
        told.append(numbers(called(given), 1))
    return {name: sum(one[name] for one in told) / len(told) for name in told[0] if all(name in one for one in told)}


def _joined(pairs: list[Pair]) -> list[Pair]:
    """Calls that compare one row each, as one of many."""
    first = pairs[0]
    data = {}
    for name, one in first.data.items():
        rows = [each.data[name].rows[0] for each in pairs]
        data[name] = Data(rows if isinstance(rows[0], str) else torch.stack(rows), one.restored)
    most = len(pairs) / 2
    given = {name for name in first.names if sum(name in one.given for one in pairs) > most}
    leads = set().union(*(one.leads for one in pairs))
    return [Pair(first.names, data, first.values, given, leads=leads, single=True)]


def _roles(one: Pair, before: Pair | None) -> tuple[str, str] | None:
    """Which of the two is predicted, and which is the truth; None where that is not clear.

    What the data gave is the truth, and so is what stayed the same in two evaluations while the other changed, or what
    is no output beside one that is.
    """
    same = {name for name in one.names if before is not None and _equal(one, before, name)}

    def fits(pred: str, target: str) -> bool:
        made = pred in one.made or not (pred in one.given or pred in same)
        true = (
            target in one.given
            or (target in same and pred not in same)
            or (target not in one.made and pred in one.made)
        )
        return made and true

    ways = [(a, b) for a, b in (one.names, one.names[::-1]) if fits(a, b)]
    return ways[0] if len(ways) == 1 else None


def _vectors(one: Pair, before: Pair | None) -> bool:
    """Whether both are what the model made of samples, as far as can be told: none is the truth."""
    fixed = one.given or (before is not None and any(_equal(one, before, name) for name in one.names))
    rows = [one.data[name].rows for name in one.names]
    return not fixed and all(isinstance(r, torch.Tensor) and r.is_floating_point() and r.dim() == 2 for r in rows)


def _in_units(pairs: Iterable[Pair | None], pred: str, target: str) -> int:
    """In how many evaluations, this one and the one before, predictions are in a unit that can be told: the targets',
    or in both another, to which training does not bring them nearer.
    """
    rows = [(one.data[pred].rows, one.data[target].rows) for one in pairs if one is not None and pred in one.data]
    if not all(isinstance(each, torch.Tensor) for both in rows for each in both):
        return 0
    if len(rows) == TWICE and all(in_target_unit(*both) is not None for both in rows):
        return TWICE
    return sum(speaks(*both) for both in rows) if speaks(*rows[0]) else 0


def _equal(one: Pair, other: Pair, name: str) -> bool:
    if name not in other.data:
        return False
    mine, theirs = one.data[name].rows, other.data[name].rows
    if isinstance(mine, list) or isinstance(theirs, list):
        return bool(mine == theirs)
    return mine.shape == theirs.shape and torch.equal(mine, theirs)


def _counts(target: Any) -> set[int]:
    """How many there are to be right."""
    if isinstance(target, list):
        return {len(target)} - {0, 1}
    labelled = int((target != IGNORE).sum())
    return {len(target), target.numel(), labelled} - {0, 1}


@contextmanager
def alone() -> Iterator[None]:
    """Inside, nothing that a function says or draws reaches the script, and no mode of the script's reaches it."""
    import numpy as np

    show = warnings.showwarning
    warnings.showwarning = lambda *args, **kwargs: None  # no filter is changed: that would make old warnings new
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    try:
        with ExitStack() as inside:
            mute = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), np.errstate(all="ignore")
            for context in (*mute, same_randomness()):
                inside.enter_context(context)
            for kind in kinds:
                inside.enter_context(torch.autocast(kind, enabled=False))
            inside.enter_context(torch.no_grad())
            yield
    finally:
        warnings.showwarning = show
