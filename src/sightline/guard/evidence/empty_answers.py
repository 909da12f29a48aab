"""Answers of which nothing is taught but their end: told by training rows alone, where nobody shows the data set."""

from __future__ import annotations

from collections import Counter

from sightline.guard.evidence.beginnings import Misplaced
from sightline.guard.evidence.prompt_masks import MaskedRow, PromptMasksSeen, common_end
from sightline.guard.evidence.setup import Setup

ROWS = 32  # fewer may be chance
ALL = 64  # rows, where none has an answer
TEMPLATE = 2  # tokens by which all prompts end: a model that is taught to stop alone has what it said ahead of it
MANY = 0.4  # of the rows: of the questions of a data set, a third may be meant to be left unanswered
ENDED = 0.9  # of the rows end in the same token: some are cut off
KINDS = 4  # different texts among the empty ones


def empty_answers(seen: PromptMasksSeen | None, setup: Setup | None = None) -> Misplaced | None:
    """That many rows are taught their last token alone, in words; None where answers are as they are.

    That token ends the other rows too, and all of those have an answer before it: so it is no answer itself. Where
    there are no others, it is what the tokenizer or the model's config says ends a text.
    """
    masked = [row for row in (seen.rows if seen else ()) if 0 < row.begin < len(row.text)]
    ends = Counter(row.text[-1] for row in masked).most_common(1)
    if len(masked) < ROWS or not ends or ends[0][1] < ENDED * len(masked):
        return None
    end = ends[0][0]
    bare = [row for row in masked if row.begin == len(row.text) - 1 and row.text[-1] == end]
    others = [row for row in masked if row.begin < len(row.text) - 1]
    if len({row.text for row in bare}) < KINDS or len(bare) < MANY * len(masked):
        return None
    if not _ends_at_once(masked, end, setup) if not others else len({row.text for row in others}) < KINDS:
        return None
    return Misplaced(
        f"an answer is empty in {len(bare)} of {len(masked)} training rows: they teach their end alone",
        "give the answers' text in their column: a row that has it under another name gives nothing",
        {"row": list(bare[0].text)[:40], "taught from": bare[0].begin},
    )


def _ends_at_once(rows: list[MaskedRow], end: int, setup: Setup | None) -> bool:
    """Whether that token, which is all that any of the rows teaches, ends texts, and stands behind one template."""
    if setup is None or len(rows) < ALL:
        return False
    told = setup.tokenizer
    if end not in (*setup.ends, *((told.eos_id, *told.model_eos_id) if told is not None else ())):
        return False
    if any(row.text[-1] != end for row in rows):
        return False
    return len(common_end([row.text[: row.begin] for row in rows])) >= TEMPLATE
