"""Conversations whose first prompt alone is masked: what the user says later is taught like an answer.

And those whose prompts are not masked at all, by what the script's own chat template puts ahead of turns.
"""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from sightline.guard.evidence.batches import BatchSeen

if TYPE_CHECKING:
    from torch import Tensor

# At the start of a line, or behind a mark that ends a turn.
USER = re.compile(r"(?:^|[\n>\]])\s*(### (?:User|Human):?|(?:User|Human|HUMAN):)")
ROWS, MOST = 4, 0.5  # rows, and their share of those that are taught anything: an answer may quote a conversation
ASKED = 8  # characters, without blanks, that are taught of a question: less is a mask that is a token too short
LONGEST = 40  # characters of what a prompt ends in


def later_turns(batch: BatchSeen, taught: Tensor) -> list[int]:
    """Rows that teach, in one run, what the user says, under the tag that stands in their masked beginning too.

    And the head of the answer behind it: a tag that is taught alone, where answers are to end, tells nothing.
    """
    if batch.assistant_mask is not None or batch.input_ids is None or batch.decode is None or len(taught) < ROWS:
        return []
    rows = [row for row, marked in enumerate(taught.tolist()) if any(marked) and _goes_on(batch, row, marked)]
    return rows if len(rows) >= max(ROWS, MOST * int(taught.any(dim=1).sum())) else []


def whole_turns(batch: BatchSeen, taught: Tensor) -> list[int]:
    """Rows that teach what stands ahead of an answer's head, behind a user's; at least half of all."""
    if batch.assistant_mask is not None or batch.input_ids is None or batch.decode is None or batch.heads is None:
        return []
    rows = [row for row, marked in enumerate(taught.tolist()) if any(marked) and _asks(batch, row, marked)]
    return rows if len(rows) >= max(ROWS, MOST * int(taught.any(dim=1).sum())) else []


def _asks(batch: BatchSeen, row: int, marked: list[bool]) -> bool:
    assert batch.input_ids is not None and batch.heads is not None
    ids, (user, answer), place = batch.input_ids[row].tolist(), batch.heads, 0
    for teaches, run in groupby(marked):
        size = len([*run])
        text = "".join(batch.text(ids[place : place + size]).split()) if teaches else ""
        before = "".join(batch.text(ids[:place]).split()) if answer in text else ""
        for own in text.split(answer)[:-1]:
            before += own
            if before.rfind(user) > before.rfind(answer) and len(own.rpartition(user)[2]) >= ASKED:
                return True
            before += answer
        place += size
    return False


def _goes_on(batch: BatchSeen, row: int, marked: list[bool]) -> bool:
    assert batch.input_ids is not None
    begin = marked.index(True)
    if begin < 1:
        return False
    ids = batch.input_ids[row].tolist()
    prompt = batch.text(ids[:begin])
    tag, head = USER.search(prompt), prompt.rstrip().rpartition("\n")[2].strip()
    if tag is None or not 2 <= len(head) <= LONGEST or head.startswith(tag[1]):
        return False
    place = begin
    for teaches, run in groupby(marked[begin:]):
        size = len([*run])
        if teaches and _asked(batch.text(ids[place : place + size]), tag[1], head):
            return True
        place += size
    return False


def _asked(text: str, tag: str, head: str) -> bool:
    """Whether the text has the user's tag, words of his behind it, and then the head of an answer."""
    behind = [text[found.end() :].partition(head) for found in USER.finditer(text) if found[1] == tag]
    return any(said.strip() and again for said, again, _ in behind)
