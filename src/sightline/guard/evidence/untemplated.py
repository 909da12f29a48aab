"""Training rows that no chat template wrote, for a model that is prompted by one; or what a template left out."""

from __future__ import annotations

from collections.abc import Callable

from sightline.guard.evidence.batches import BatchSeen
from sightline.guard.evidence.beginnings import MANY, ROWS, Misplaced, PromptsSeen
from sightline.guard.evidence.prompt_masks import PromptMasksSeen


def without_roles(
    masks: PromptMasksSeen | None, prompts: PromptsSeen | None, text: Callable[[list[int]], str]
) -> Misplaced | None:
    """Prompts end in a token of the chat template that no training row has: no row was written by that template."""
    if masks is None or prompts is None or len(masks.rows) < ROWS or len(prompts.ends) != 1:
        return None
    (end, count), mark = prompts.ends[0], text([prompts.ends[0][0]]).strip()
    if count < MANY or not mark or not any(mark in role for role in masks.roles):
        return None
    if any(end in row.text for row in masks.rows):
        return None
    return Misplaced(
        f"no chat template was applied: none of {len(masks.rows)} training rows has {mark!r}, in which prompts end",
        "write training rows by tokenizer.apply_chat_template(messages, tokenize=False), as the prompts are",
        {"prompts": count, "roles": list(masks.roles)},
    )


def passed_by(batch: BatchSeen | None) -> Misplaced | None:
    """The chat template has a name of its own for who asks, and passes turns of another by."""
    if batch is None or not batch.mute:
        return None
    return Misplaced(
        "the chat template writes the answers and nothing of who asks: it passes turns of that role by",
        "give each turn a role that the chat template knows",
        {"chat template": "wrote no word of a user in several conversations"},
    )
