"""Chat templates that a script applied itself, and what they put around each turn.

Without anybody who tells, nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

CALLS = 4  # of one template that are read: turns are told apart in all of them alike
SHORTEST = 3  # characters of a mark: shorter ones are in texts by chance


class Templates:
    """Template -> what it puts around turns."""

    def __init__(self) -> None:
        self._marks: dict[str, set[str]] = {}
        self._calls: dict[str, int] = {}

    def applied(self, tokenizer: Any, talk: Any, apply: Callable[..., Any]) -> None:
        """A script applied its tokenizer's template to a conversation. `apply`: the method, to write it as text."""
        template = getattr(tokenizer, "chat_template", None)
        one = talk[0] if isinstance(talk, list | tuple) and talk and isinstance(talk[0], list) else talk
        if not isinstance(template, str) or self._calls.get(template, 0) >= CALLS or not isinstance(one, list):
            return
        self._calls[template] = self._calls.get(template, 0) + 1
        said = [str(turn.get("content") or "").strip() for turn in one if isinstance(turn, Mapping)]
        if not said or not all(said):
            return
        text = apply(tokenizer, one, tokenize=False)
        asked = text
        with suppress(Exception):  # a template may refuse to ask behind an answer
            asked = apply(tokenizer, one, tokenize=False, add_generation_prompt=True)
        text += "\0" + asked[len(text) :] if asked.startswith(text) else ""
        for content in sorted(said, key=len, reverse=True):
            text = text.replace(content, "\0")
        ends = [mark for name in ("eos_token", "bos_token", "pad_token") if (mark := getattr(tokenizer, name, None))]
        for mark in ends:  # a trainer adds these by itself
            text = text.replace(mark, "\0")
        found = {piece.strip() for piece in text.split("\0")}
        self._marks.setdefault(template, set()).update(piece for piece in found if len(piece) >= SHORTEST)

    def of(self, tokenizer: Any) -> tuple[str, ...]:
        """What the script's own use of a tokenizer's template puts around turns; () where it never used it."""
        return tuple(sorted(self._marks.get(getattr(tokenizer, "chat_template", None) or "", ())))


TEMPLATES = Templates()
