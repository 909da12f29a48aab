"""Runs of one token that a limit cuts: whole in most rows, and shorter in just those rows that are as long as can be.

Placeholders of an image look so where ids are cut to a length at the front (`ids[-n:]`) or at the end (`ids[:n]`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

LEAST = 4  # tokens of a whole run: shorter ones may be words
SHORT = 3  # rows whose run is short, and rows whose run is whole
CHANCE = 1e-3  # that so many of these would have the greatest length, if they had it as often as others


@dataclass(frozen=True, slots=True)
class Run:
    """One row's run of a token. `length`: of the row, or of its prompt; `first`, `last`: the run begins or ends it."""

    count: int
    length: int
    first: bool
    last: bool


def runs(
    ids: Tensor, real: Tensor | None, prompt: Tensor | None, *, every: bool = False
) -> Iterator[tuple[int, bool, list[Run]]]:
    """Token, whether lengths are of prompts, and its run in each row that has one, of tokens that stand in runs alone.

    `ids` (B, T); `real` (B, T) bool, False on padding, which else is what most rows end or begin with; `prompt`
    (B, T) bool, True up to the first label. `every`: each row has an image, so one without a run lost all of it.
    """
    repeated = ids[:, 1:][ids[:, 1:] == ids[:, :-1]]
    tokens, counts = repeated.unique(return_counts=True)
    for token in tokens[counts >= LEAST - 1].tolist():
        tokens_only = _without_padding(ids, token) if real is None else real
        at = (ids == token) & tokens_only
        if int(at.sum(dim=1).max()) < LEAST or bool((at[:, 1:] & ~at[:, :-1]).sum(dim=1).add(at[:, 0]).gt(1).any()):
            continue
        yield token, False, _of_rows(at, tokens_only, every)
        if prompt is not None:
            yield token, True, _of_rows(at, tokens_only & prompt, every)


def cut_at_a_limit(rows: list[Run]) -> int | None:
    """How long whole runs are, where shorter ones begin (or end) just those rows that have the greatest length."""
    whole = max((row.count for row in rows), default=0)
    short, others = ([row for row in rows if (row.count < whole) is shorter] for shorter in (True, False))
    if min(len(short), len(others)) < SHORT:
        return None
    limit = max(row.length for row in rows)
    at_an_edge = all(row.first for row in short) or all(row.last for row in short)
    if not at_an_edge or any(row.length != limit for row in short) or all(row.length == limit for row in others):
        return None  # where all rows are as long, they were padded to it
    as_long = (sum(row.length == limit for row in others) + 1) / (len(others) + 2)
    return whole if as_long ** len(short) < CHANCE else None


def _of_rows(at: Tensor, within: Tensor, every: bool) -> list[Run]:
    """Of each row that has any `at` (B, T), or of `every` one, beside what stands `within` it."""
    lengths, starts = within.sum(dim=1).tolist(), within.int().argmax(dim=1).tolist()
    ends = (within.shape[1] - 1 - within.flip(1).int().argmax(dim=1)).tolist()
    return [
        Run(sum(line), length, not any(line) or bool(line[start]), not any(line) or bool(line[end]))
        for line, length, start, end in zip(at.tolist(), lengths, starts, ends, strict=True)
        if every or any(line)
    ]


def _without_padding(ids: Tensor, token: int) -> Tensor:
    """(B, T) True but on the runs that one other token makes at the ends of rows, and one at their beginnings."""
    return ~(_edge(ids.flip(1), token).flip(1) | _edge(ids, token))


def _edge(ids: Tensor, token: int) -> Tensor:
    """(B, T) True on the runs of one token, not `token`, with which rows begin: of the one that has most there.

    None of a token that may be a word: it stands elsewhere too, and never in long runs.
    """
    runs = (ids == ids[:, :1]).int().cumprod(dim=1).bool()
    sizes, most = runs.sum(dim=1), (0, token)
    for candidate in set(ids[:, 0][sizes > 1].tolist()) - {token}:
        own = sizes[ids[:, 0] == candidate]
        if int(own.max()) >= LEAST or int(own.sum()) == int((ids == candidate).sum()):
            most = max(most, (int(own.sum()), candidate))
    return runs & (ids[:, :1] == most[1]) & (most[0] > 0)
