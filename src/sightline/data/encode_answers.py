"""Encoder of questions whose answer is chosen from a vocabulary: the prompt's tokens, and what each answer is worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sightline.atomic import write_text
from sightline.data.batch import Batch, Example, Sequence
from sightline.data.encode import RowError, validate
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.row import Row
from sightline.data.vocabulary import soft_target
from sightline.errors import UserError

FACTS = "answers.json"
Rule = Literal["leave-one-out", "thirds"]


class AnswerEncoder:
    """Rows to prompts with marks of a vocabulary's answers; nothing is written, so no token is supervised.

    A row none of whose answers is in the vocabulary is kept: every answer is wrong for it, as in the released code
    (github.com/hengyuan-hu/bottom-up-attention-vqa, `dataset.py`). `outside` counts such rows.

    Args:
        prompts: how the model's prompts are encoded.
        answers: the vocabulary, in the order of the head's outputs.
        targets: how the marks follow from what people answered (`data/vocabulary.py`).
    """

    needs_images = False

    def __init__(self, prompts: ComposedEncoder, answers: tuple[str, ...], targets: Rule) -> None:
        self.prompts, self.answers, self.targets = prompts, answers, targets
        self.tokenizer, self.pad_id, self.eos_id = prompts.tokenizer, prompts.pad_id, prompts.eos_id
        self.image_token_id = prompts.image_token_id
        self._places = {answer: place for place, answer in enumerate(answers)}

    @property
    def tokens_per_image(self) -> int:
        """See `Encoder`."""
        return self.prompts.tokens_per_image

    def encode(self, row: Row) -> Example:
        """The prompt of `row`, and the marks of its answers. Raises RowError where it has none."""
        validate(row, answered=not row.answers)
        return replace(self.prompts.encode_prompt(row), marks=tuple(sorted(self.marks(row).items())))

    def encode_prompt(self, row: Row) -> Example:
        """The prompt of `row`, answered or not. Raises RowError."""
        return self.prompts.encode_prompt(row)

    def marks(self, row: Row) -> dict[int, float]:
        """Place in the vocabulary -> mark, of the answers to `row` that are in it and worth something.

        A row whose reader knows one answer has the assistant's.
        """
        if not (given := row.answers or ((row.answer,) if row.answered else ())):
            raise RowError("nobody answered it, so nothing can be learned from it", row.where)
        worth = soft_target(given, self.targets)
        return {self._places[answer]: mark for answer, mark in worth.items() if mark and answer in self._places}

    def outside(self, rows: Iterable[Row]) -> int:
        """How many of `rows` have no answer in the vocabulary."""
        return sum(not self.marks(row) for row in rows)

    def collate(
        self,
        sequences: list[Sequence],
        *,
        flip: torch.Generator | None = None,
        pad_left: bool = False,
        features: Callable[[tuple[str, ...]], Tensor] | None = None,
    ) -> Batch:
        """See `Encoder.collate`. Raises RowError where an image cannot be decoded.

        UserError: padding on the left, which the head's model would take for text.
        """
        if pad_left:
            raise UserError("prompts whose answer is chosen are padded on the right", fix="collate without pad_left")
        batch = self.prompts.collate(sequences, flip=flip, features=features)
        length = batch.input_ids.shape[1]
        ends = [line * length + end for line, each in enumerate(sequences) for end in each.ends]
        answers = torch.zeros(len(ends), len(self.answers))
        for line, marks in zip(answers, (marks for each in sequences for marks in each.marks), strict=True):
            for place, mark in marks:
                line[place] = mark
        return replace(batch, labels=None, ends=torch.tensor(ends, dtype=torch.int64), answers=answers)

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens, stripped."""
        return self.prompts.decode(ids)

    def save(self, folder: Path) -> None:
        """Write `answers.json` into `folder`. The prompts' encoder is saved by itself."""
        facts = {"targets": self.targets, "answers": list(self.answers)}
        write_text(Path(folder) / FACTS, json.dumps(facts, ensure_ascii=False, indent=1) + "\n")

    def same_as_in(self, folder: Path) -> None:
        """Raise UserError where the vocabulary saved in `folder` is another: its weights would mean other answers."""
        saved = AnswerEncoder.load(folder, self.prompts).answers
        if saved != self.answers:
            new = next((one for one, other in zip(self.answers, saved, strict=False) if one != other), "")
            raise UserError(
                f"the vocabulary counted now has {len(self.answers)} answers, the run's own {len(saved)}; they differ "
                f"from '{new}' on",
                where=str(Path(folder) / FACTS),
                fix="go on with the data that the run began with, or start a new run",
            )

    @classmethod
    def load(cls, folder: Path, prompts: ComposedEncoder) -> AnswerEncoder:
        """The encoder that `save` wrote into `folder`."""
        facts = json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))
        return cls(prompts, tuple(facts["answers"]), facts["targets"])
