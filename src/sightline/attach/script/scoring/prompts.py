"""Texts that a model wrote with what it was asked still in front of them.

A causal model's `generate` gives the prompt along. Where each prediction begins with a text that the script had at hand
when it compared it, and what comes behind is, now and then, the very text that is wanted, that is how they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from sightline.attach.script.scoring.readings import ROWS, Other, Reading

SPACED = 2  # times as long with its spaces
FRAMES, DEPTH = 2, 3  # of the script, and containers in them
MANY, LETTERS = 512, 4  # texts that are looked at; in the shortest that may be a prompt
HITS = 4  # texts behind the prompt that are just what is wanted


def prompts(frame: FrameType | None, own: Callable[[str], bool], texts: Sequence[str]) -> set[str]:
    """Texts in the script's frames, from `frame` on, with which some of `texts` begin: without spaces."""
    bare, found = [_bare(text) for text in texts], set[str]()
    left, seen, longest = MANY, 0, max(map(len, texts))
    while frame is not None and seen < FRAMES:
        if own(frame.f_code.co_filename):
            seen += 1
            local = frame.f_locals if frame.f_code.co_name != "<module>" else _named(frame)
            for text in _texts(local, DEPTH):
                left -= 1
                if left < 0:
                    return found
                lead = _bare(text) if len(text) <= SPACED * longest else ""
                if len(lead) >= LETTERS and any(len(one) > len(lead) and one.startswith(lead) for one in bare):
                    found.add(lead)
        frame = frame.f_back
    return found


def fronted(pred: Sequence[str], target: Sequence[str], leads: set[str]) -> Reading | None:
    """The truth behind the prompts, if all predictions come so, and what is wanted does not."""
    truth, hits = [], 0
    for said, wanted in zip(pred, target, strict=True):
        ways = [at for lead in leads if (at := _behind(said, lead)) and not _bare(wanted).startswith(lead)]
        if not ways:
            return None
        at = next((at for at in ways if said[at:].strip() == wanted.strip()), max(ways))
        hits += said[at:].strip() == wanted.strip() != ""
        truth.append(said[:at] + wanted)
    if len(truth) < ROWS or hits < HITS:
        return None
    return Reading(
        truth, (Other("texts without the prompt, which predictions have in front", list(target), list(target)),)
    )


def _bare(text: str) -> str:
    return "".join(text.split()).lower()


def _behind(text: str, lead: str) -> int:
    """Where a text goes on after `lead`, and the space after it; 0 where it does not begin with it."""
    at = 0
    for letter in lead:
        while at < len(text) and text[at].isspace():
            at += 1
        if text[at : at + 1].lower() != letter:
            return 0
        at += 1
    rest = text[at:].lstrip()
    return len(text) - len(rest) if rest else 0


def _named(frame: FrameType) -> dict[str, Any]:
    return {name: frame.f_locals[name] for name in frame.f_code.co_names if name in frame.f_locals}


def _texts(value: Any, depth: int) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple) and depth and type(value).__module__ in ("builtins", "collections"):
        for one in value.values() if isinstance(value, Mapping) else value[:MANY]:
            yield from _texts(one, depth - 1)
