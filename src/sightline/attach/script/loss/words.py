"""Reads the perplexities, bits and losses that a script prints or logs after an evaluation: most say them nowhere else.

Only a number behind its own name counts, only while what was evaluated is fresh, and only as what the script reports:
whether it is the right one is for the check to compute.
"""

from __future__ import annotations

import builtins
import functools
import logging
import re
from collections.abc import Callable
from typing import Any

from sightline.attach.hook import Hook
from sightline.attach.recorder import Recorder
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


class Words:
    """Everything that the process prints and logs, since `install`. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._saw = Hook(self._said, lambda error: fault(f"words: {type(error).__name__}: {error}"))

    def install(self) -> None:
        """Read from now on. What is printed and logged goes on as it was."""
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

    def _said(self, *parts: Any) -> None:
        """A line. Only text and plain numbers are looked at: turning other things into text may have effects."""
        record = parts[0] if parts and isinstance(parts[0], logging.LogRecord) else None
        if record is not None:
            if not any(word in str(record.msg).lower() for word in WORDS):
                return
            line = record.getMessage()
        else:
            line = " ".join(_text(part) for part in parts)
        if len(line) > LONGEST or not any(word in line.lower() for word in WORDS):
            return
        said = [*NAMED.findall(line), *LOSS.findall(line), *BITS.findall(line)]
        found = {name: number for name, number in said if "train" not in name.lower()}
        for one in self._models.live if found else ():
            if one.attachment is not None and one.recorder.evaluated:
                _show(one.recorder, found)


def _show(recorder: Recorder, found: dict[str, str]) -> None:
    recorder.end_evaluation()
    values = {name: float(number) for name, number in found.items()}
    seen = MetricsSeen(recorder.step, values, "evaluation", {name: rounding(n) for name, n in found.items()})
    recorder.mailbox.post([], lambda _: recorder.offer(seen))


def rounding(number: str) -> float:
    """How far off a written number may be: half of its last digit."""
    digits, _, power = number.lower().partition("e")
    return 0.5 * 10.0 ** (int(power or 0) - len(digits.partition(".")[2]))


def _text(part: Any) -> str:
    if type(part) is dict:
        return " ".join(f"{_text(name)}: {_text(value)}" for name, value in part.items())
    return str(part) if isinstance(part, float) or type(part) in (str, int) else ""
