"""Reads conversations in the rows of a data set, and what became of them in a text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

TALKS = ("messages", "conversations")
ANSWERS = ("completion", "chosen", "rejected")
ASIDE = ("system", "developer", "tool", "function", "ipython", "observation")  # templates may leave these out
RUN = 3  # words in a row: templates and processors may write a part of a turn otherwise
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


def unheard(talks: Sequence[Mapping[str, Any]], texts: Sequence[str]) -> list[Mapping[str, Any]]:
    """The rows whose text has what is answered, and nothing of those who ask; {} in the place of the others.

    A template that knows a role by another name passes its turns by.
    """
    if len(talks) != len(texts):
        return []
    return [row if one_sided(row, text) else {} for row, text in zip(talks, texts, strict=True)]


def one_sided(row: Mapping[str, Any], text: str) -> bool | None:
    """Whether a text has what is answered, and nothing of those who ask; None where nobody does, or is answered."""
    talk: list[Any] = next((row[name] for name in TALKS if isinstance(row.get(name), list)), [])
    told = [(turn.get("role"), _words(turn)) for turn in talk if isinstance(turn, Mapping)]
    told = [(role, words) for role, words in told if role and role not in ASIDE and words]
    asked = [words for role, words in told if role != told[-1][0]]
    if not asked or not _holds(text, told[-1][1]):
        return None
    return not any(_holds(text, words) for words in asked)


def _words(turn: Mapping[str, Any]) -> list[str]:
    """What is said in a turn, in words, be it a text or parts of which some are text."""
    content = turn.get("content")
    parts = content if isinstance(content, list) else [{"text": content}]
    texts = [part.get("text") for part in parts if isinstance(part, Mapping)]
    return [word for text in texts if isinstance(text, str) for word in text.lower().split()]


def _holds(text: str, words: list[str]) -> bool:
    """Whether some words in a row are in a text, however a tokenizer writes blanks and capitals."""
    whole = "".join(text.lower().split())
    return any("".join(words[at : at + RUN]) in whole for at in range(max(1, len(words) - RUN + 1)))
