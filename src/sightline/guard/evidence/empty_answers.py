"""Answers of which nothing is taught but their end: told by training rows alone, where nobody shows the data set."""

from __future__ import annotations

from collections import Counter

from sightline.guard.evidence.beginnings import Misplaced
from sightline.guard.evidence.prompt_masks import PromptMasksSeen

ROWS = 32  # fewer may be chance
MANY = 0.4  # of the rows: of the questions of a data set, a third may be meant to be left unanswered
ENDED = 0.9  # of the rows end in the same token: some are cut off
KINDS = 4  # different texts among the empty ones


def empty_answers(seen: PromptMasksSeen | None) -> Misplaced | None:
    """That many rows are taught their last token alone, in words; None where answers are as they are.

    That token ends the other rows too, and all of those have an answer before it: so it is no answer itself.
    """
    masked = [row for row in (seen.rows if seen else ()) if 0 < row.begin < len(row.text)]
    ends = Counter(row.text[-1] for row in masked).most_common(1)
    if len(masked) < ROWS or not ends or ends[0][1] < ENDED * len(masked):
        return None
    end = ends[0][0]
    bare = [row for row in masked if row.begin == len(row.text) - 1 and row.text[-1] == end]
    others = [row for row in masked if row.begin < len(row.text) - 1]
    if len({row.text for row in bare}) < KINDS or len({row.text for row in others}) < KINDS:
        return None
    if len(bare) < MANY * len(masked):
        return None
    return Misplaced(
        f"an answer is empty in {len(bare)} of {len(masked)} training rows: they teach their end alone",
        "give the answers' text in their column: a row that has it under another name gives nothing",
        {"row": list(bare[0].text)[:40], "taught from": bare[0].begin},
    )
