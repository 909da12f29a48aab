"""Listens to a script while it evaluates, and asks its own metrics what they think of the ground truth (M3, and L7).

A metric is a function of the script's own files that is given two things of as many rows, one that the model made and
another that it did not, and returns a number. It is built anew from its bytecode, where that is safe, and called with
the truth in the form in which the predictions come. What is no metric (a loss, a distance) is at its best there too.

An evaluation begins with a forward pass of a model, or where a model is told to be evaluated: what it is then asked by
a method of the script's own (an answer written word by word) need be no forward pass. It is over when training goes on.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterable
from types import CodeType, FrameType
from typing import Any

import torch
from torch import nn
from torch.utils.data import RandomSampler
from torch.utils.data.dataloader import _BaseDataLoaderIter

from sightline.attach.hook import Hook, unwrapped
from sightline.attach.phases.state import State
from sightline.attach.script.heap import compiled_parts
from sightline.attach.script.main import installed
from sightline.attach.script.scoring.asking import asked
from sightline.attach.script.scoring.batches import made_of
from sightline.attach.script.scoring.calls import listener
from sightline.attach.script.scoring.carried import carried
from sightline.attach.script.scoring.methods import Method, asks
from sightline.attach.script.scoring.ongoing import Ongoing
from sightline.attach.script.scoring.order import tally
from sightline.attach.script.scoring.pairs import Function, Pair, ends_alike, is_from, leaves, pair, said
from sightline.attach.script.scoring.prompts import prompts
from sightline.attach.script.scoring.recorded import Recorded, Spots
from sightline.attach.script.scoring.replay import replayed
from sightline.attach.script.scoring.verdict import Verdict, numbers
from sightline.attach.script.scoring.weighing import weighed
from sightline.guard.evidence import OracleSeen
from sightline.guard.probes.call import Call

CALLS = 4  # of one function in one evaluation that are kept
MISSES = 8  # calls that gave no number: it is no metric
SINGLES = 64  # that are kept of calls which compare two texts
FUNCTIONS = 32  # that are kept
TWICE = 2  # evaluations of which it is asked what they are a mean over
SECONDS = 0.5  # of the thread's own time that all questions of one evaluation may take to functions, and to itself
FIRST = 4  # evaluations that are listened to; then the 8th, 16th, ...
AHEAD = 2  # batches that a host holds at once
INSIDE = nn.Module._wrapped_call_impl.__code__

Token = tuple[Method | None, tuple[Function, Pair] | None]


class Scores:
    """All evaluations of the process, since `install`. `fault`: told of errors of our own. `live`: who is trained."""

    def __init__(self, fault: Callable[[str], None], live: Callable[[], Iterable[State]] = tuple) -> None:
        self._hook = lambda act: Hook(act, lambda error: fault(f"scores: {type(error).__name__}: {error}"))
        self._calls = listener(self._safe(self._wanted), self._safe(self._began), self._safe(self._ended))
        self._fault, self._live = fault, live
        self._functions: dict[CodeType, Function] = {}
        self._models: list[nn.Module] = []
        self._batch: Any = None
        self._fetched: tuple[Any, ...] = ()  # the last first
        self._dataset: Any = None
        self._output: Any = None
        self._spots: Spots | None = None
        self._drawn: set[int] = set()  # data sets whose rows come in a new order each time, in this evaluation
        self._known: dict[str, bool] = {}
        self._units = set[str]()  # where predictions were in another unit than targets, once
        self._evaluations, self._running, self._done, self._found, self._weighed = 0, False, False, False, 0
        self._folders: tuple[str, ...] = ()
        self._ongoing = Ongoing()
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
                scores._fetched = (batch, *scores._fetched[: AHEAD - 1])
                scores._dataset = iterator._dataset
                drawn = isinstance(_sampler(iterator), RandomSampler)
                (scores._drawn.add if drawn else scores._drawn.discard)(id(scores._dataset))
            finally:
                if scores._running:
                    scores._calls.resume()
            return batch

        _BaseDataLoaderIter.__next__ = fetched  # type: ignore[method-assign, assignment]
        evaluate, told = nn.Module.eval, self._hook(self._told)

        @functools.wraps(evaluate)
        def evaluated(module: nn.Module) -> nn.Module:
            result = evaluate(module)
            if not (scores._done or scores._running):
                told(module)
            return result

        nn.Module.eval = evaluated  # type: ignore[method-assign, assignment]

    def close(self) -> None:
        """Nothing is listened to any more."""
        self._calls.close()
        self._done, self._batch, self._output, self._fetched = True, None, None, ()
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
            self._begin(state)
            if not self._running:
                return
        elif not any(state.model is model for model in self._models):
            self._models.append(state.model)
        self._output = (call, output)
        given = (*call.args, *call.kwargs.values())
        self._batch = made_of(self._fetched, given, self._batch)
        if self._spots is not None:
            self._spots.add(state.model, sys._getframe(), self._batch, self._dataset, output, given=given)
        self._calls.resume()

    def _begin(self, state: State) -> None:
        self._evaluations += 1
        self._running = _heard(self._evaluations)
        if not self._running:
            return
        for one in self._functions.values():
            one.before, one.now = one.now or one.before, []  # a model may be asked for other things in between
        self._folders = self._folders or folders()
        self._models, self._drawn = [state.model], self._drawn & {id(self._dataset)}
        self._spots = Spots(self._own)
        self._calls.start()

    def _told(self, module: nn.Module) -> None:
        """`module` is to be evaluated: what comes may ask it for something else than a forward pass."""
        whole, live = unwrapped(module)[1], [one for one in self._live() if not one.muted]
        if not _heard(self._evaluations + 1):
            self._evaluations += any(one.model is whole for one in live)
            return
        inside = set(whole.modules())
        state = next((one for one in live if one.model in inside), None)
        if state is not None and not any(map(compiled_parts, inside)):  # a compiler would read us along
            self._begin(state)
            state.asked = self._running

    def _over(self, state: State) -> None:
        """Training goes on, or the run is over."""
        if not self._running:
            return
        self._running = False
        self._calls.close()
        self._output = self._batch = None
        self._fetched = ()
        spots, self._spots = self._spots, None
        records = spots.records() if spots is not None else []
        drawn = [one for one in records if id(one.dataset) in self._drawn]
        until = time.thread_time() + SECONDS
        for function in list(self._functions.values()):
            if not function.done and (found := asked(function, self._own, until, drawn, state.ignored)) is not None:
                function.done = self._found = True
                self._offer(state, function.code, function.where, found)
                return  # what it calls, or who calls it, is the same mistake
        self._again(state, records, time.thread_time() + SECONDS)
        self._weigh(state, records, time.thread_time() + SECONDS)

    def _again(self, state: State, records: list[Recorded], until: float) -> None:
        for record in () if self._found else records:
            seen = self._ongoing.carried(record, self._own, state.step, until)
            if self._evaluations > 1:
                seen = seen or carried(record, self._own, state.step, until)
            if seen is not None:
                self._found = True
                state.offer(seen)
                return
            if (again := replayed(record, self._own, until, state.ignored)) is not None:
                if again[1].twice and again[0].where not in self._units:
                    self._units.add(again[0].where)  # training might still bring them there
                    continue
                self._found = True
                self._offer(state, again[0].code, again[0].where, again[1])
                return

    def _weigh(self, state: State, records: list[Recorded], until: float) -> None:
        self._weighed += bool(records)
        for record in () if self._weighed > TWICE else records:
            if (means := weighed(record, self._own, state.step, until)) is not None:
                state.offer(means)
                return

    def _offer(self, state: State, code: CodeType, where: str, found: Verdict) -> None:
        name = f"{code.co_qualname} {found.name}".strip() + f" ({where})"
        numbers = (found.truth, found.spoilt, found.perfect)
        state.offer(OracleSeen(state.step, name, *numbers, reads=found.says, alone=found.alone, pairs=found.pairs))

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
        known = self._known.get(file)
        if known is None:
            known = self._known[file] = self._is_own(file)
        return known

    def _is_own(self, file: str) -> bool:
        path = os.path.abspath(file) if file else ""
        return path.startswith(self._folders) and not installed(path) and os.path.exists(path)

    def _began(self, frame: FrameType) -> Token | None:
        code = frame.f_code
        if code is INSIDE:
            if any(frame.f_locals.get("self") is model for model in self._models):
                self._calls.pause()
            return None
        method, compared = asks(frame, self._models), self._compares(frame, code)
        return (method, compared) if method is not None or compared is not None else None

    def _compares(self, frame: FrameType, code: CodeType) -> tuple[Function, Pair] | None:
        known = self._functions.get(code)
        if known is None and len(self._functions) >= FUNCTIONS:
            return None
        if known is not None and (known.done or known.full(CALLS, SINGLES)):
            return None
        seen = frame.f_locals
        names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
        with torch.no_grad():
            found = pair({name: seen[name] for name in names}) if all(name in seen for name in names) else None
            if found is None:
                return None
            self._trace(found, seen)
        texts = [text for one in found.data.values() if isinstance(one.rows, list) for text in one.rows]
        found.leads = prompts(frame.f_back, self._own, texts) if texts else set()
        found.tallies = {name: tally(seen[name]) for name in found.names} if self._drawn else {}
        if known is None:
            free = {name: seen[name] for name in code.co_freevars if name in seen}
            known = self._functions[code] = Function(code, frame.f_globals, free, _place(frame.f_back))
        return known, found

    def _trace(self, found: Pair, seen: Any) -> None:
        """Which of the two comes from the data, and which from the model."""
        call, output = self._output if self._output is not None else (None, None)
        data = [*leaves(self._batch), *(leaves((call.args, dict(call.kwargs))) if call is not None else ())]
        made = [one for leaf in leaves(output) if isinstance(leaf, torch.Tensor) and leaf.dim() for one in said(leaf)]
        the_same = {name for name in found.names if any(is_from(seen[name], leaf) for leaf in data)}
        alike = {name for name in found.names if any(ends_alike(seen[name], leaf) for leaf in data)}
        found.given |= the_same if len(the_same) == 1 else alike  # a right answer has the same letters
        for name in found.names:
            if not isinstance(seen[name], str) and any(ends_alike(seen[name], leaf) for leaf in made):
                found.made.add(name)

    def _ended(self, token: Token, value: Any) -> None:
        method, compared = token
        if method is not None and any(True for _ in leaves(value)):
            self._output = (None, value)
            if self._spots is not None:
                self._spots.add(method.model, method.caller, self._batch, self._dataset, value, method.name)
        if compared is None:
            return
        function, found = compared
        if numbers(value, found.count):
            function.now.append(found)
            return
        function.missed += 1
        function.done = function.missed >= MISSES


def _heard(count: int) -> bool:
    """Whether this evaluation is one that is listened to."""
    return count <= FIRST or (count >= 8 and count & (count - 1) == 0)


def _sampler(iterator: Any) -> Any:
    return getattr(iterator._index_sampler, "sampler", iterator._index_sampler)


def _place(frame: FrameType | None) -> str:
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}" if frame is not None else "a thread"


def folders() -> tuple[str, ...]:
    """Where the script's own files are."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return (os.path.dirname(os.path.abspath(main)) + os.sep,) if main else ()
