"""Reads the perplexities, bits and losses that a script prints, logs or files after an evaluation: most say them
nowhere else.

A progress bar, a TensorBoard and a file of JSON or CSV are given names and numbers, which are read as a line. A bar may
tell them after each batch: what was filed last when training goes on is what was reported.

Only a number behind its own name counts, only while what was evaluated is fresh, and only as what the script reports:
whether it is the right one is for the check to compute.
"""

from __future__ import annotations

import builtins
import csv
import functools
import json
import logging
import re
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

from torch import Tensor

from sightline.attach.hook import Hook
from sightline.attach.phases.state import State
from sightline.attach.recorder import Recorder
from sightline.attach.script.audience import Beside
from sightline.attach.script.watch import Models
from sightline.guard.evidence import MetricsSeen

NAMED = re.compile(
    r"((?:[\w/-]*[_/-])?(?:ppl|perplexity)(?:[_/-][\w/-]*)?)[\"')\]]*\s*(?:[:=]|is|of)?\s*(\d+\.\d+(?:e[+-]?\d+)?)",
    re.I,
)
LOSS = re.compile(
    r"\b((?:val|valid|validation|eval|evaluation|test|dev|held[ -]?out)[ _/-](?:[a-z]+[ _/-])?(?:loss|nll))"
    r"[\"')\]]*\s*(?:[:=]|is|of)?\s*(\d+\.\d+(?:e[+-]?\d+)?)",
    re.I,
)
BITS = re.compile(
    r"((?:[\w/-]*[_/-])?(?:bp[bct]|bits?[ _/-]*per[ _/-]*(?:byte|char|token|word)[a-z]*))"
    r"[\"')\]]*\s*(?:[:=]|is|of)?\s*(\d+\.\d+(?:e[+-]?\d+)?)",
    re.I,
)
WORDS = ("ppl", "perplexity", "loss", "nll", "bit", "bpb", "bpc", "bpt")
LONGEST = 2000  # characters of a line that are read
MOST, DEPTH = 512, 4  # numbers with names that are looked at, and how deep they lie: a history of epochs is long
SHORT = 200  # characters of a text beside such numbers
BARS = ("set_postfix", "set_postfix_str", "set_description", "set_description_str")


class Words(Beside):
    """Everything that the process prints and logs, since `install`. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        super().__init__()
        self._models = models
        self._filed_last: weakref.WeakKeyDictionary[State, dict[str, str]] = weakref.WeakKeyDictionary()
        self._hook = lambda act: Hook(act, lambda error: fault(f"words: {type(error).__name__}: {error}"))
        self._saw = self._hook(self._said)

    def install(self) -> None:
        """Read from now on. What is printed and logged goes on as it was."""
        super().install()
        said, make = builtins.print, logging.getLogRecordFactory()

        @functools.wraps(said)
        def printed(*args: Any, **kwargs: Any) -> None:
            said(*args, **kwargs)
            self._saw(*args)

        @functools.wraps(make)
        def logged(*args: Any, **kwargs: Any) -> logging.LogRecord:
            record = make(*args, **kwargs)
            self._saw(record)
            return record

        builtins.print = printed
        logging.setLogRecordFactory(logged)
        for name in ("dump", "dumps"):
            setattr(json, name, self._before(getattr(json, name), lambda args, _: args[:1]))
        writes = self._before(csv.DictWriter.writerow, lambda args, _: args[1:2])
        csv.DictWriter.writerow = writes  # type: ignore[method-assign]

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {"tqdm.std": self._bars, "torch.utils.tensorboard.writer": self._boards}

    def _bars(self) -> None:
        kind = sys.modules["tqdm.std"].tqdm
        for name in BARS:
            setattr(kind, name, self._before(getattr(kind, name), lambda args, given: (*args[1:2], given)))

    def _boards(self) -> None:
        kind = sys.modules["torch.utils.tensorboard.writer"].SummaryWriter
        kind.add_scalar = self._before(kind.add_scalar, lambda args, given: [_scalar(*args[1:3], **given)])
        kind.add_scalars = self._before(kind.add_scalars, lambda args, _: args[2:3])

    def _before(self, tell: Callable[..., Any], values: Callable[[Any, Any], Any]) -> Callable[..., Any]:
        """`tell`, and what of its arguments is read first."""
        filed = self._hook(lambda args, given: self._filed(values(args, given)))

        @functools.wraps(tell)
        def told(*args: Any, **kwargs: Any) -> Any:
            filed(args, kwargs)
            return tell(*args, **kwargs)

        return told

    def _filed(self, values: Any) -> None:
        """Names and numbers: of those of one name, which stand for epochs, the last."""
        if not any(one.attachment is not None and one.recorder.evaluated for one in self._models.live):
            return
        found: dict[str, str] = {}
        for count, (name, value) in enumerate(_leaves(values, DEPTH)):
            if count >= MOST:
                break
            line = f"{name}: {value}" if name else value
            if any(word in line.lower() for word in WORDS):
                found.setdefault(name, line)
        for name, number in _named(" ".join(found.values())).items():
            for one in self._models.live:
                if one.attachment is not None and one.recorder.evaluated:
                    self._filed_last.setdefault(one.recorder, {})[name] = number

    def over(self, state: State) -> None:
        """Training goes on, or the script says what came out."""
        super().over(state)
        if (found := self._filed_last.pop(state, None)) is not None:
            self._hook(_offer)(state, found)

    def _said(self, *parts: Any) -> None:
        """A line. Only text and plain numbers are looked at: turning other things into text may have effects."""
        record = parts[0] if parts and isinstance(parts[0], logging.LogRecord) else None
        if record is not None:
            args = record.args if isinstance(record.args, tuple) else tuple(record.args or ())
            texts = (str(record.msg), *(one for one in args if isinstance(one, str)))
            if not any(word in text.lower() for word in WORDS for text in texts):
                return
            line = record.getMessage()
        else:
            line = " ".join(_text(part) for part in parts)
        if len(line) > LONGEST or not any(word in line.lower() for word in WORDS):
            return
        found = _named(line)
        for one in self._models.live if found else ():
            if one.attachment is not None and one.recorder.evaluated:
                _show(one.recorder, found)


def _named(line: str) -> dict[str, str]:
    said = [*NAMED.findall(line), *LOSS.findall(line), *BITS.findall(line)]
    return {name: number for name, number in said if "train" not in name.lower()}


def _show(recorder: Recorder, found: dict[str, str]) -> None:
    recorder.end_evaluation()
    _offer(recorder, found)


def _offer(recorder: State, found: dict[str, str]) -> None:
    values = {name: float(number) for name, number in found.items()}
    seen = MetricsSeen(recorder.step, values, "evaluation", {name: rounding(n) for name, n in found.items()})
    recorder.mailbox.post([], lambda _: recorder.offer(seen))


def _leaves(values: Any, depth: int, name: str = "") -> Iterator[tuple[str, str]]:
    """Name -> number or short text, the last first, of what is nested: tables in lists, or lists in tables."""
    if isinstance(values, Mapping | list | tuple):
        pairs = list(values.items()) if isinstance(values, Mapping) else [(name, one) for one in values[-MOST:]]
        for key, one in reversed(pairs[-MOST:]) if depth else ():
            yield from _leaves(one, depth - 1, str(key))
        return
    value = values.item() if _one(values) else values
    if isinstance(value, str) and len(value) <= SHORT:
        yield name, value
    elif type(value) is not bool and isinstance(value, Real):
        yield name, repr(float(value))


def _one(value: Any) -> bool:
    """Whether it is an array of one number, which nobody has to wait for."""
    if isinstance(value, Tensor):
        return value.device.type == "cpu" and value.numel() == 1
    return type(value).__module__ == "numpy" and getattr(value, "size", 0) == 1


def _scalar(tag: Any = "", scalar_value: Any = None, **_: Any) -> dict[str, Any]:
    return {str(tag): scalar_value}


def rounding(number: str) -> float:
    """How far off a written number may be: half of its last digit."""
    digits, _, power = number.lower().partition("e")
    return 0.5 * 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def _text(part: Any) -> str:
    if type(part) is dict:
        return " ".join(f"{_text(name)}: {_text(value)}" for name, value in part.items())
    return str(part) if isinstance(part, float) or type(part) in (str, int) else ""
