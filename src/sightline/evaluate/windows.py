"""Strided windows over a text: which tokens each window scores, so that every token is scored once.

A token is scored in the first window that holds it and the token before it, which is the one that shows it the longest
context. That is the sliding window of transformers' guide to perplexity
(https://huggingface.co/docs/transformers/perplexity).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sightline.errors import UserError


@dataclass(frozen=True, slots=True)
class Window:
    """Tokens [start, end) of a text; those from `first` on are scored here."""

    start: int
    end: int
    first: int


def windows(length: int, window: int, stride: int) -> Iterator[Window]:
    """The windows of a text of `length` tokens. Its first token has nothing before it and is never scored.

    Args:
        window: tokens in a window at most.
        stride: how far one starts behind the one before; all but a text's first tokens see window - stride tokens or
            more.

    Raises:
        UserError: a stride that leaves tokens without context.
    """
    if not 1 <= stride < window:
        what = f"a stride of {stride} over windows of {window} tokens leaves the first token of a window unscored"
        raise UserError(what, where="evaluate.stride", fix=f"choose it from 1 to {window - 1}")
    scored = 1
    for start in range(0, length, stride):
        end = min(start + window, length)
        if end > scored:
            yield Window(start, end, scored)
            scored = end
        if end == length:
            return
