"""Reads conversations in the rows of a data set, and what became of them in a text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

TALKS = ("messages", "conversations")
ANSWERS = ("completion", "chosen", "rejected")
PRINTED = re.compile(r"""\{['"]role['"]:\s*['"]\w+['"],\s*['"]content['"]""")  # what str() makes of a conversation


def readable(value: Any) -> bool:
    """No tensor or array: those are token ids, whatever their column is called."""
    return isinstance(value, str) or not hasattr(value, "shape")


def said(answer: Any) -> str:
    """An answer's text: itself, or its last turn's content or call of a tool."""
    last = answer[-1] if isinstance(answer, list) and answer else answer
    if isinstance(last, Mapping):
        return str(last.get("content") or last.get("tool_calls") or "")
    return str(last or "")


def turns(row: Mapping[str, Any]) -> list[str]:
    """What is said in a row's conversation, turn by turn; [] where there is none."""
    talk: list[Any] = next((row[name] for name in TALKS if isinstance(row.get(name), list)), [])
    return [turn["content"] for turn in talk if isinstance(turn, Mapping) and isinstance(turn.get("content"), str)]


def unanswered(row: Mapping[str, Any]) -> bool:
    """Whether a row that has turns, or an answer of turns, has none that is not a user's or the system's."""
    talks = [row[name] for name in (*TALKS, *ANSWERS) if isinstance(row.get(name), list)]
    roles = [[turn.get("role") for turn in talk if isinstance(turn, Mapping)] for talk in talks]
    return any("user" in one and not set(one) - {"user", "system"} for one in roles)


def glued(talk: list[str], text: str) -> bool:
    """Whether two turns of a conversation stand in the text with nothing but white space between them."""
    pairs = [(re.escape(one.strip()), re.escape(other.strip())) for one, other in pairwise(talk)]
    return any(re.search(one + r"\s*" + other, text) for one, other in pairs if one and other)
