"""How texts end: answers behind which nothing tells to stop, and the end that a mask by id hides."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from sightline.guard.evidence.batches import IGNORE
from sightline.guard.evidence.data import DataSeen

if TYPE_CHECKING:
    from torch import Tensor

ROUND = (8, 10)  # widths that are multiples of these may be padded beyond the longest row
KINDS = 3  # different lengths, and different last tokens, of answers: an end of one's own would be one token


def endless_answers(data: DataSeen | None, ends: Collection[int]) -> int:
    """Of conversations that a host rendered: how many close with the assistant's very words, and no end of text.

    0 unless all of the first rows do: what a template puts behind an answer stands behind every one.
    """
    if data is None or data.objective != "sft" or len(data.texts) != len(data.rows) or not ends:
        return 0
    for row, text in zip(data.rows, data.texts, strict=True):
        words = _last_words(row)
        if words is None or not text.rstrip().endswith(words) or any(words.endswith(mark) for mark in data.marks):
            return 0
        if set(ends) & set(row.get("input_ids", ends)):
            return 0
    return len(data.rows)


def _last_words(row: Mapping[str, Any]) -> str | None:
    """What the assistant says last, in a row of messages; None for other rows."""
    turns = next((row[name] for name in ("completion", "messages", "conversations") if name in row), None)
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], Mapping):
        return None
    words = turns[-1].get("content")
    return words.strip() or None if isinstance(words, str) and turns[-1].get("role") == "assistant" else None


def endless_rows(ids: Tensor, mask: Tensor, labels: Tensor, ends: Collection[int]) -> int:
    """Of a batch of (B, T) answers to masked prompts: how many that nothing cut off have no end of text; else 0.

    Rows with padding at their right are not cut off. There are answers of several lengths and with several last tokens,
    so that neither is an end of the author's own; and no row of the batch has an end of text.
    """
    taught = (labels != IGNORE) & mask
    if not ends or not (labels == ids)[taught].all():
        return 0
    if any(bool(((ids == end) & mask).any() | (labels == end).any()) for end in ends):
        return 0
    rows = [row for row in range(len(ids)) if not mask[row, -1] and taught[row].any() and mask[row, 0]]
    lasts, lengths = set(), set()
    for row in rows:
        last, first = int(mask[row].nonzero()[-1]), int(taught[row].nonzero()[0])
        if not taught[row, last] or first < 2 or not taught[row, first : last + 1].all():
            return 0
        lasts.add(int(ids[row, last]))
        lengths.add(last - first)
    return len(rows) if min(len(lasts), len(lengths)) >= KINDS else 0


def attended(ids: Tensor, mask: Tensor, pad: int) -> Tensor:
    """The mask, and the first of the pads that end each row where even the longest row ends in one: that is its EOS."""
    import torch

    run = (ids == pad).flip(1).cumprod(dim=1).sum(dim=1)
    if int(run.min()) != 1 or any(ids.shape[1] % size == 0 for size in ROUND):
        return mask
    return mask.index_put((torch.arange(len(ids)), ids.shape[1] - run), torch.tensor(True))
