"""Encoder of image-text pairs: a caption's tokens beside its image, which has no place in the text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.data.batch import IGNORE, Batch, Example, Sequence
from sightline.data.collate import PixelStore, collate
from sightline.data.encode import RowError, pad_token_id, validate
from sightline.data.pixels import ImageProcessorFacts
from sightline.data.row import Row
from sightline.errors import UserError

FACTS = "pairs.json"


class PairEncoder:
    """Rows of one image and one caption (their last assistant turn) to tokens.

    Every token but the first is supervised: a model that writes captions predicts each from those before it.

    Args:
        tokenizer: a transformers tokenizer with a pad token; it adds its own special tokens around the caption.
        image_processor: what the vision tower expects of an image.
        longest: tokens that the text tower can read.
        fill: every text is filled up to `longest` with pad tokens that count as its own (SigLIP pools the last one).

    Raises:
        UserError: the tokenizer has no pad token, or none that ends a text.
    """

    needs_images = False
    image_token_id = -1  # no token stands for an image...
    tokens_per_image = 0  # ...and an image takes no tokens of the text

    def __init__(
        self, tokenizer: Any, image_processor: ImageProcessorFacts, longest: int, *, fill: bool = False
    ) -> None:
        self.tokenizer, self.image_processor, self.longest, self.fill = tokenizer, image_processor, longest, fill
        self.pad_id = pad_token_id(tokenizer)
        end = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if end is None:
            raise UserError("the tokenizer has no token that ends a text", where="tokenizer", fix="set its eos_token")
        self.eos_id = int(end)
        self._start = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
        self._pixels = PixelStore(image_processor)

    def encode(self, row: Row) -> Example:
        """The caption as tokens, and its image. Raises RowError."""
        validate(row)
        if len(row.images) != 1:
            raise RowError(
                f"a pair is one image and one text, and this row has {len(row.images)} images",
                row.where,
                fix="give each image of the row a row of its own",
            )
        if not row.answer:
            raise RowError("the caption is empty", row.where)
        ids = self._ids(row.answer)
        if len(ids) > self.longest:
            raise RowError(
                f"the caption has {len(ids)} tokens, and the text tower reads {self.longest}",
                row.where,
                fix="shorten it, or leave the row out: a text is never cut without a word",
            )
        full = self._filled(ids)
        return Example(row.where, full, (IGNORE, *ids[1:], *[IGNORE] * (len(full) - len(ids))), row.images)

    def _ids(self, text: str) -> tuple[int, ...]:
        """The tokenizer's own special tokens around `text`; a start and an end where it adds none."""
        ids = list(self.tokenizer(text).input_ids)
        if self._start is not None and ids[:1] != [self._start]:
            ids.insert(0, self._start)
        if ids[-1:] != [self.eos_id]:
            ids.append(self.eos_id)
        return tuple(ids)

    def _filled(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        return (*ids, *[self.pad_id] * (self.longest - len(ids))) if self.fill else ids

    def encode_prompt(self, row: Row) -> Example:
        """The image and the token that begins a text, for a model that writes captions."""
        example = self.encode(row)
        return Example(row.where, example.input_ids[:1], (IGNORE,), row.images)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """A text by itself (a class's prompt, a query) as tokens. Raises UserError where it is too long."""
        ids = self._ids(text)
        if len(ids) > self.longest:
            what = f"a text of {len(ids)} tokens is more than the text tower's {self.longest}"
            raise UserError(what, where=text[:60], fix="shorten it")
        return self._filled(ids)

    def collate(
        self,
        sequences: list[Sequence],
        *,
        flip: torch.Generator | None = None,
        pad_left: bool = False,
        features: Callable[[tuple[str, ...]], Tensor] | None = None,
    ) -> Batch:
        """See `Encoder.collate`. Raises RowError where an image cannot be decoded."""
        return collate(
            sequences, pad_id=self.pad_id, pixels=self._pixels, flip=flip, pad_left=pad_left, features=features
        )

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens, stripped."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files and `pairs.json` into `folder`."""
        self.tokenizer.save_pretrained(folder)
        facts = {"longest": self.longest, "fill": self.fill, "image_processor": asdict(self.image_processor)}
        (Path(folder) / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> PairEncoder:
        """The encoder that `save` wrote into `folder`."""
        from transformers import AutoTokenizer

        facts = json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))
        image = facts["image_processor"]
        image |= {"mean": tuple(image["mean"]), "std": tuple(image["std"])}
        return cls(
            AutoTokenizer.from_pretrained(folder),
            ImageProcessorFacts(**image),
            facts["longest"],
            fill=facts.get("fill", False),
        )
