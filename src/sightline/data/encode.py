"""Encoder: rows to tokens and sequences to batches, whatever the model; RowError: a broken row, by file and number."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sightline.data.row import Row, Where
from sightline.errors import UserError

if TYPE_CHECKING:  # readers raise RowError and must not pay for importing torch
    from collections.abc import Callable

    import torch

    from sightline.data.batch import Batch, Example, Sequence


class RowError(UserError):
    """A row that cannot be used. `place` is the row's file and number; the message begins with it."""

    def __init__(self, what: str, place: Where, *, fix: str | None = None) -> None:
        self.place = place
        super().__init__(what, where=str(place), fix=fix)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(RowError, fix=self.fix), (self.what, self.place)  # survives the way out of a loading process


def validate(row: Row, *, answered: bool = True) -> None:
    """Raise RowError where `row` cannot be a training sample (or, without `answered`, a prompt)."""
    places = sum(not isinstance(part, str) for turn in row.turns for part in turn.parts)
    if places != len(row.images):
        raise RowError(
            f"{len(row.images)} images but {places} image placeholders",
            row.where,
            fix="write one <image> (or image part) into the conversation for each image of the row",
        )
    if not row.turns:
        raise RowError("the conversation is empty", row.where)
    answers = [turn for turn in row.turns if turn.role == "assistant"]
    if any(not isinstance(part, str) for turn in answers for part in turn.parts):
        raise RowError("an assistant turn holds an image", row.where, fix="images belong in user or system turns")
    if answered and not answers:
        fix = "give the row an answer; in reader vqa they come from 'annotations', and test splits have none"
        raise RowError("no assistant turn, so nothing to learn from", row.where, fix=fix)
    if answered and not any(turn.text for turn in answers):
        raise RowError("every assistant turn is empty, so nothing is supervised", row.where)


def without_answer(row: Row) -> Row:
    """`row` without its last turn where that is an answer. Raises RowError where nothing is asked."""
    validate(row, answered=False)
    turns = row.turns[:-1] if row.turns[-1].role == "assistant" else row.turns
    return replace(row, turns=turns)


def pad_token_id(tokenizer: Any) -> int:
    """The pad token's id. Raises UserError where the tokenizer has none."""
    if tokenizer.pad_token_id is None:
        raise UserError(
            "the tokenizer has no pad token",
            where="tokenizer",
            fix="add one with tokenizer.add_special_tokens({'pad_token': '<pad>'}); EOS must not stand in for it",
        )
    return int(tokenizer.pad_token_id)


class Encoder(Protocol):
    """What training, evaluation and the guard know of a model's tokenizer, template and image processor."""

    tokenizer: Any
    pad_id: int
    eos_id: int
    image_token_id: int
    needs_images: bool  # whether counting a row's tokens means opening its images

    @property
    def tokens_per_image(self) -> int | None:
        """Image tokens that a picture becomes; None where that depends on the picture."""

    def encode(self, row: Row) -> Example:
        """`row` as tokens; labels stand on the assistant turns and their end tokens alone. Raises RowError."""

    def encode_prompt(self, row: Row) -> Example:
        """`row` without its last assistant turn, up to where the answer begins; every label is IGNORE."""

    def collate(
        self,
        sequences: list[Sequence],
        *,
        flip: torch.Generator | None = None,
        pad_left: bool = False,
        features: Callable[[tuple[str, ...]], torch.Tensor] | None = None,
    ) -> Batch:
        """`sequences` as one batch, each distinct image decoded once.

        Args:
            flip: where given, each image is mirrored with probability 1/2.
            pad_left: pad before the tokens, as generation needs it.
            features: image keys to (N, P, D) vision features, in place of pixels.
        """

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens."""

    def save(self, folder: Path) -> None:
        """Write everything that `load` of the same class needs."""
