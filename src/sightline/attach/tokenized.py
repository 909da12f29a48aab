"""Texts that a tokenizer of this process was given of late, in the order of its calls.

Who masks prompts measures them: he has a row tokenized, and its prompt alone. Without anybody who tells, nothing is
known. What is tokenized in other processes (a loader's workers) is not.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import compress
from typing import Any

Text = tuple[int, ...]
CALLS, TOKENS = 8192, 500_000  # that are kept
ROWS, LONGEST = 64, 8192  # of a call; tokens of a text
NEAR = 2  # calls: a row is tokenized beside its prompt, with its answer between them at most


class Tokenized:
    """The calls of late, the oldest first."""

    def __init__(self) -> None:
        self._calls: deque[list[Text]] = deque()
        self._last: dict[Text, int] = {}  # text -> number of the last call that gave it
        self._number = self._tokens = 0

    def gave(self, given: Any) -> None:
        """A tokenizer gave this: a list or tensor of ids, or a mapping with ``input_ids``."""
        texts = [text for text in _texts(given) if len(text) <= LONGEST]
        self._calls.append(texts)
        for text in texts:
            self._last[text] = self._number
        self._number += 1
        self._tokens += sum(map(len, texts))
        while len(self._calls) > CALLS or self._tokens > TOKENS:
            for text in self._calls.popleft():
                self._tokens -= len(text)
                if self._last.get(text, self._number) < self._number - len(self._calls):
                    del self._last[text]

    def beside(self, text: Text) -> list[Text]:
        """The shorter texts that were tokenized right before or after this one."""
        if (number := self._last.get(text)) is None:
            return []
        first = self._number - len(self._calls)
        near = range(max(first, number - NEAR), min(self._number, number + NEAR + 1))
        return [one for at in near for one in self._calls[at - first] if len(one) < len(text)]


def _texts(given: Any) -> Iterator[Text]:
    """The texts without their padding."""
    named = isinstance(given, Mapping)
    ids, mask = _rows(given.get("input_ids") if named else given), _rows(given.get("attention_mask") if named else None)
    for place, row in enumerate(ids[:ROWS]):
        shown = mask[place] if len(mask) == len(ids) else ()
        yield tuple(compress(row, shown) if 0 in shown and len(shown) == len(row) else row)


def _rows(value: Any) -> list[list[int]]:
    if hasattr(value, "tolist"):
        value = value[:ROWS].tolist() if value.ndim > 1 else value.tolist()
    if not isinstance(value, list) or not value:
        return []
    return value if isinstance(value[0], list) else [value] if isinstance(value[0], int) else []


TOKENIZED = Tokenized()
