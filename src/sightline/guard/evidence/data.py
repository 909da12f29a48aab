"""What a data set holds before it becomes batches, and what the host means to do with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sightline.guard.evidence.batches import IGNORE, Phase

Objective = Literal["sft", "preference", "unpaired-preference", "reward", "rollout", "language-model"]
NEEDS: Mapping[str, tuple[tuple[str, ...], ...]] = {  # any one of these sets of columns
    "sft": (("messages",), ("text",), ("prompt", "completion")),
    "preference": (("chosen", "rejected"),),
    "unpaired-preference": (("completion", "label"), ("chosen", "rejected")),
    "reward": (("chosen", "rejected"),),
    "rollout": (("prompt",),),
}
KNOWN = {"messages", "text", "prompt", "completion", "chosen", "rejected"}  # columns that tell an objective
CHATS = ("sft", "preference", "unpaired-preference", "rollout")  # objectives of models that answer


@dataclass(frozen=True, slots=True, eq=False)
class DataSeen:
    """A data set as its host was given it, or as the host has prepared it.

    Attributes:
        step: optimizer steps taken by then (0 at the start).
        objective: what the host does with the rows: supervised fine-tuning (``sft``), pairs of answers (``preference``:
            DPO and its kin), one answer with a verdict (``unpaired-preference``: KTO), a reward model (``reward``),
            answers that the policy writes itself (``rollout``: GRPO, RLOO), plain next-token training
            (``language-model``); None where the host could not tell.
        columns: names of the columns, in order.
        rows: the first few rows, raw: column -> value (text, messages, lists of ids).
        size: number of rows; None for a stream.
        prepared: True where the host has turned text into ids before it was seen.
        texts: what a few rows say once tokenized, decoded with special tokens; () where there is no tokenizer.
        trainer: the host's own name of itself, e.g. ``SFTTrainer``.
        templated: whether the tokenizer has a chat template; None without a tokenizer.
        marks: the tokenizer's own special tokens, as text: an answer of these alone says nothing.
        roles: what the tokenizer's chat template puts around turns, where the script itself applied it before.
        dropped: columns that the host takes out, though the model's code asks for them by name among its keywords.
        whole: whether the host's own collator supervises whole conversations because nobody asked it to do otherwise.
    """

    step: int
    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...] = ()
    objective: Objective | None = None
    phase: Phase = "train"
    size: int | None = None
    prepared: bool = False
    texts: tuple[str, ...] = ()
    trainer: str | None = None
    templated: bool | None = None
    marks: tuple[str, ...] = ()
    whole: bool = False
    roles: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()

    @property
    def known(self) -> list[str]:
        """The columns that tell an objective, by name."""
        return sorted(KNOWN.intersection(self.columns))

    @property
    def lacking(self) -> str:
        """The columns that the objective needs, in words, where there are others instead; else nothing."""
        sets, have = NEEDS.get(self.objective or "", ()), set(self.columns)
        if self.prepared or not sets or not self.known or any(have.issuperset(one) for one in sets):
            return ""
        return " or ".join(" and ".join(one) for one in sets)

    @property
    def unmarked(self) -> bool:
        """Whether answers are taught to bare texts, by a script that speaks with its model in turns elsewhere."""
        roles, texts = (["".join(one.split()).casefold() for one in each] for each in (self.roles, self.texts))
        marked = any(mark in text for mark in roles for text in texts)  # tokenizers drop blanks and capitals
        return bool(self.roles and self.texts) and not marked and self.objective in CHATS

    @property
    def prompts_taught(self) -> int:
        """How many of `rows` have labels where their ``completion_mask`` (TRL's) says that they are a prompt."""
        return sum(_prompt_taught(row) for row in self.rows)


def _prompt_taught(row: Mapping[str, Any]) -> bool:
    labels, mask = row.get("labels"), row.get("completion_mask")
    if not isinstance(labels, Sequence) or not isinstance(mask, Sequence) or len(labels) != len(mask):
        return False
    return any(label != IGNORE and not said for label, said in zip(labels[1:], mask[1:], strict=True))
