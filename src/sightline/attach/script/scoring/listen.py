"""Listens to a script while it evaluates, and asks its own metrics what they think of the ground truth (M3).

A metric is a function of the script's own files that is given two things of as many rows, one that the model made and
another that it did not, and returns a number. It is built anew from its bytecode, where that is safe, and called with
the truth in the form in which the predictions come. What is no metric (a loss, a distance) is at its best there too.
"""

from __future__ import annotations

import functools
import io
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.utils.data.dataloader import _BaseDataLoaderIter

from sightline.attach.hook import Hook
from sightline.attach.phases.state import State
from sightline.attach.script.main import OURS
from sightline.attach.script.scoring.calls import listener
from sightline.attach.script.scoring.pairs import Data, Function, Pair, ends_alike, leaves, pair, said
from sightline.attach.script.scoring.readings import reading
from sightline.attach.script.scoring.replica import Replica
from sightline.attach.script.scoring.verdict import Verdict, judged, numbers
from sightline.guard.evidence import IGNORE, OracleSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.restore import same_randomness

CALLS = 4  # of one function in one evaluation that are kept: those of most rows
SINGLES = 64  # that are kept of calls which compare two texts
FUNCTIONS = 32  # that are kept
SECONDS = 0.5  # that all questions of one evaluation may take
FIRST = 4  # evaluations that are listened to; then the 8th, 16th, ...
INSTALLED = ("site-packages", "dist-packages")
INSIDE = nn.Module._wrapped_call_impl.__code__


class Scores:
    """All evaluations of the process, since `install`. `fault`: told of errors of our own."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        self._hook = lambda act: Hook(act, lambda error: fault(f"scores: {type(error).__name__}: {error}"))
        self._calls = listener(self._wanted, self._safe(self._began), self._safe(self._ended))
        self._fault = fault
        self._functions: dict[CodeType, Function] = {}
        self._models: list[nn.Module] = []
        self._batch: Any = None
        self._output: Any = None
        self._evaluations, self._running, self._done = 0, False, False
        self._folders: tuple[str, ...] = ()
        self.enters, self.gave, self.over = (self._hook(a) for a in (self._enters, self._gave, self._over))

    def install(self) -> None:
        """Notice evaluations, and what loaders give."""
        State.audience = self
        fetch, scores = _BaseDataLoaderIter.__next__, self

        @functools.wraps(fetch)
        def fetched(iterator: Any) -> Any:
            if scores._done:
                return fetch(iterator)
            scores._calls.pause()
            try:
                scores._batch = batch = fetch(iterator)
            finally:
                if scores._running:
                    scores._calls.resume()
            return batch

        _BaseDataLoaderIter.__next__ = fetched  # type: ignore[method-assign, assignment]

    def close(self) -> None:
        """Nothing is listened to any more."""
        self._calls.close()
        self._done, self._batch, self._output = True, None, None
        self._functions.clear()
        if State.audience is self:
            State.audience = None

    # --- an evaluation -------------------------------------------------------------------------------------------

    def _enters(self, state: State) -> None:
        """A model is about to be run, to judge it."""
        self._calls.pause()

    def _gave(self, state: State, call: Call, output: Any) -> None:
        """It gave `output`."""
        if not self._running:
            self._evaluations += 1
            count = self._evaluations
            self._running = count <= FIRST or (count >= 8 and count & (count - 1) == 0)
            if not self._running:
                return
            for one in self._functions.values():
                one.before, one.now = one.now, []
            self._folders = self._folders or folders()
            self._models = [state.model]
            self._calls.start()
        elif not any(state.model is model for model in self._models):
            self._models.append(state.model)
        self._output = (call, output)
        self._calls.resume()

    def _over(self, state: State) -> None:
        """Training goes on, or the run is over."""
        if not self._running:
            return
        self._running = False
        self._calls.close()
        self._output = self._batch = None
        until = time.perf_counter() + SECONDS
        for function in list(self._functions.values()):
            if not function.done and (found := self._asked(function, until)) is not None:
                label = f"{function.code.co_qualname} {found.name}".strip() + f" (called in {function.where})"
                state.offer(OracleSeen(state.step, label, found.truth, found.spoilt, found.perfect, reads=found.says))
                function.done = True
                break  # what it calls, or who calls it, is the same mistake

    # --- calls ---------------------------------------------------------------------------------------------------

    def _safe(self, act: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any) -> Any:
            try:
                return act(*args)
            except Exception as error:  # noqa: BLE001 - a fault of ours must not end somebody's run; it is told, not lost
                self._fault(f"scores: {type(error).__name__}: {error}")
                return None

        return called

    def _wanted(self, code: CodeType) -> bool:
        if code is INSIDE:
            return True
        arguments = code.co_argcount + code.co_kwonlyargcount
        plain = not code.co_flags & 0x2AC  # *args, **kwargs, a generator, a coroutine
        named = not code.co_name.startswith("<") or code.co_name == "<lambda>"
        return plain and named and arguments >= 2 and self._own(code.co_filename)

    def _own(self, file: str) -> bool:
        path = os.path.abspath(file) if file else ""
        inside = path.startswith(self._folders) and not any(part in path for part in INSTALLED)
        return inside and not path.startswith(OURS) and os.path.exists(path)

    def _began(self, frame: FrameType) -> tuple[Function, Pair] | None:
        code = frame.f_code
        if code is INSIDE:
            if any(frame.f_locals.get("self") is model for model in self._models):
                self._calls.pause()
            return None
        known = self._functions.get(code)
        if known is None and len(self._functions) >= FUNCTIONS:
            return None
        if known is not None and (known.done or len(known.now) >= SINGLES):
            return None
        seen = frame.f_locals
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        with torch.no_grad():
            found = pair({name: seen[name] for name in names}) if all(name in seen for name in names) else None
            if found is None:
                return None
            self._trace(found, seen)
        if known is None:
            free = {name: seen[name] for name in code.co_freevars if name in seen}
            known = self._functions[code] = Function(code, frame.f_globals, free, _place(frame.f_back))
        return known, found

    def _trace(self, found: Pair, seen: Any) -> None:
        """Which of the two comes from the data, and which from the model."""
        call, output = self._output if self._output is not None else (None, None)
        data = [*leaves(self._batch), *(leaves((call.args, dict(call.kwargs))) if call is not None else ())]
        made = [one for leaf in leaves(output) if isinstance(leaf, torch.Tensor) and leaf.dim() for one in said(leaf)]
        for name in found.names:
            if any(ends_alike(seen[name], leaf) for leaf in data):
                found.given.add(name)
            if not isinstance(seen[name], str) and any(ends_alike(seen[name], leaf) for leaf in made):
                found.made.add(name)

    def _ended(self, token: tuple[Function, Pair], value: Any) -> None:
        function, found = token
        count = len(next(iter(found.data.values())).rows)
        if not numbers(value, count):
            return
        function.now.append(found)
        if not found.single and len(function.now) > CALLS:
            function.now.remove(min(function.now, key=lambda one: len(one.data[one.names[0]].rows)))

    # --- questions -----------------------------------------------------------------------------------------------

    def _asked(self, function: Function, until: float) -> Verdict | None:
        """What the function reads wrong, if all calls of it that can be told of agree."""
        pairs = _joined(function.now) if function.now and function.now[0].single else function.now
        before = _joined(function.before) if function.before and function.before[0].single else function.before
        found: list[dict[tuple[str, str], Verdict]] = []
        for place, one in enumerate(pairs):
            roles = _roles(one, before[place] if place < len(before) else None)
            if roles is None or time.perf_counter() > until:
                continue
            try:
                verdicts = self._truth(function, one, *roles, until)
            except Exception:  # noqa: BLE001 - the script's own function, on other input than it was made for
                return None
            if verdicts is not None:
                found.append(verdicts)
        keys = set.intersection(*(set(one) for one in found)) if found else set()
        return next((verdict for key, verdict in found[0].items() if key in keys), None) if found else None

    def _truth(
        self, function: Function, one: Pair, pred: str, target: str, until: float
    ) -> dict[tuple[str, str], Verdict] | None:
        rows = {name: data.rows for name, data in one.data.items()}
        with torch.no_grad():
            read = reading(rows[pred], rows[target])
        if read is None or not read.others:
            return None
        built = Replica(self._own)
        metric = built.of(function.code, function.namespace, function.free)
        rest = {name: built.argument(value) for name, value in one.values.items()}

        def score(these: Any, those: Any) -> dict[str, float]:
            if time.perf_counter() > until:
                raise TimeoutError
            return _scored(metric, function.code, rest, one, {**rows, pred: these, target: those})

        with alone():
            return judged(read, rows[pred], rows[target], score, _counts(rows[target]))


def _scored(metric: Any, code: CodeType, rest: dict[str, Any], one: Pair, rows: dict[str, Any]) -> dict[str, float]:
    """What the metric says of `rows`, row by row or at once."""
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]

    def called(given: dict[str, Any]) -> Any:
        values = [given[name] if name in given else rest[name] for name in names]
        return metric(
            *values[: code.co_argcount], **dict(zip(names[code.co_argcount :], values[code.co_argcount :], strict=True))
        )

    if not one.single:
        copies = {n: v.clone() if isinstance(v, torch.Tensor) else list(v) for n, v in rows.items()}
        count = len(copies[one.names[0]])
        return numbers(called({name: one.data[name].restored(copy) for name, copy in copies.items()}), count)
    told = []
    for each in zip(*rows.values(), strict=True):
        given = dict(zip(rows, each, strict=True))
        told.append(
            numbers(
                called({n: v if isinstance(v, str) else one.data[n].restored(v.clone()) for n, v in given.items()}), 1
            )
        )
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
    return [Pair(first.names, data, first.values, given, single=True)]


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


def _place(frame: FrameType | None) -> str:
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}" if frame is not None else "a thread"


def folders() -> tuple[str, ...]:
    """Where the script's own files are."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return (os.path.dirname(os.path.abspath(main)) + os.sep,) if main else ()


@contextmanager
def alone() -> Iterator[None]:
    """Inside, nothing that a function says or draws reaches the script, and no mode of the script's reaches it."""
    show = warnings.showwarning
    warnings.showwarning = lambda *args, **kwargs: None  # no filter is changed: that would make old warnings new
    kinds = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    try:
        with ExitStack() as inside:
            for context in (redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), same_randomness()):
                inside.enter_context(context)
            for kind in kinds:
                inside.enter_context(torch.autocast(kind, enabled=False))
            inside.enter_context(torch.no_grad())
            yield
    finally:
        warnings.showwarning = show
