"""Encoder of composed models: template, tokenizer, a fixed number of tokens an image, and one image processor."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sightline.data.batch import IGNORE, Batch, Example, Sequence
from sightline.data.collate import PixelStore, collate
from sightline.data.encode import RowError, pad_token_id, validate, without_answer
from sightline.data.pixels import ImageProcessorFacts
from sightline.data.row import Row
from sightline.data.templates import Segment, named, render
from sightline.errors import UserError

FACTS = "encoder.json"
MOST_TEXTS = 1 << 18  # tokenised texts that are kept; the same questions are asked of many images


class ComposedEncoder:
    """Rows to tokens for a composed model.

    Args:
        tokenizer: a transformers tokenizer with a pad token and the image token.
        image_processor: what the vision tower expects of an image.
        tokens_per_image: image tokens that one picture becomes.
        image_token_id: id of the image token.
        template: a name in `data/templates.py`.

    Raises:
        UserError: the template is unknown, or the tokenizer lacks the pad, image or end token.
    """

    needs_images = False  # every image becomes the same number of tokens

    def __init__(
        self,
        tokenizer: Any,
        image_processor: ImageProcessorFacts,
        tokens_per_image: int,
        image_token_id: int,
        template: str,
    ) -> None:
        self.tokenizer, self.image_processor = tokenizer, image_processor
        self.tokens_per_image, self.image_token_id = tokens_per_image, image_token_id
        self.template_name, self.template = template, named(template)
        self.pad_id = pad_token_id(tokenizer)
        self.eos_id = end_token_id(tokenizer, self.template.end, template)
        if image_token_id is None or not 0 <= image_token_id < len(tokenizer):
            raise UserError(
                f"the tokenizer has {len(tokenizer)} tokens, so {image_token_id} cannot be its image token",
                where="model.compose.image_token",
                fix="add the image token with tokenizer.add_special_tokens and pass its id",
            )
        self._space_first = _writes_space_first(tokenizer)
        self._start = start_tokens(tokenizer)
        self._texts: dict[tuple[str, bool], tuple[int, ...]] = {}
        self._pixels = PixelStore(image_processor)

    # --- rows to examples ----------------------------------------------------------------------------------------

    def encode(self, row: Row) -> Example:
        """`row` as tokens; labels on assistant text and end tokens alone. Raises RowError."""
        validate(row)
        return self._example(row, render(self.template, row.turns), learn=True)

    def encode_prompt(self, row: Row) -> Example:
        """`row` up to where its last answer begins: a prefix of `encode(row).input_ids`. Raises RowError."""
        asked = without_answer(row)
        prompt = self._example(asked, render(self.template, asked.turns, prompt=True), learn=False)
        if not prompt.input_ids:
            raise RowError(
                "the prompt has no tokens to continue from",
                row.where,
                fix="give the row an image or a question that the template keeps",
            )
        return prompt

    def _example(self, row: Row, segments: list[Segment], *, learn: bool) -> Example:
        # Each segment is tokenised by itself. So the tokens of a segment cannot depend on what follows it, and the
        # tokens of a prompt are, by construction, the first tokens of the prompt with its answer: the model is asked in
        # exactly the form in which it learned. It also means that a repeated question is tokenised once.
        ids = list(self._start)
        labels = [IGNORE] * len(ids)
        prefix, images_in_prefix, open_prefix = len(ids), 0, True
        for segment in segments:
            tokens = self._tokens(segment, row)
            ids += tokens
            labels += tokens if learn and segment.supervised else (IGNORE,) * len(tokens)
            own_text = segment.kind in ("content", "end") and segment.role != "system"
            open_prefix = open_prefix and not own_text
            if open_prefix:
                prefix, images_in_prefix = len(ids), images_in_prefix + (segment.kind == "image")
        shared = prefix if images_in_prefix == len(row.images) else 0
        return Example(row.where, tuple(ids), tuple(labels), row.images, shared)

    def _tokens(self, segment: Segment, row: Row) -> tuple[int, ...]:
        if segment.kind == "image":
            return (self.image_token_id,) * self.tokens_per_image
        if segment.kind == "end":
            return (self.eos_id,)
        key = (segment.text, segment.kind == "markup")
        found = self._texts.get(key)
        if found is None:
            if len(self._texts) >= MOST_TEXTS:  # of a stream, texts never end
                self._texts.clear()
            found = self._texts[key] = self._tokenise(*key)
        if self.image_token_id in found:
            raise RowError("the text holds the image token outside an image's place", row.where)
        return found

    def _tokenise(self, text: str, markup: bool) -> tuple[int, ...]:
        # SentencePiece tokenizers write a space before every text they are given; the segment's own would double it.
        text = text[1:] if self._space_first and text.startswith(" ") else text
        return tuple(self.tokenizer(text, add_special_tokens=False, split_special_tokens=not markup).input_ids)

    # --- sequences to batches ------------------------------------------------------------------------------------

    def collate(
        self,
        sequences: list[Sequence],
        *,
        flip: torch.Generator | None = None,
        pad_left: bool = False,
        features: Callable[[tuple[str, ...]], Tensor] | None = None,
    ) -> Batch:
        """See `Encoder.collate`. Raises RowError where an image cannot be decoded."""
        batch = collate(
            sequences, pad_id=self.pad_id, pixels=self._pixels, flip=flip, pad_left=pad_left, features=features
        )
        return replace(batch, image_places=(batch.input_ids == self.image_token_id).flatten().nonzero().squeeze(1))

    def decode(self, ids: list[int]) -> str:
        """Text of `ids` without special tokens, stripped."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()

    # --- saving --------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files and `encoder.json` into `folder`."""
        self.tokenizer.save_pretrained(folder)
        facts = {
            "template": self.template_name,
            "tokens_per_image": self.tokens_per_image,
            "image_token_id": self.image_token_id,
            "image_processor": asdict(self.image_processor),
        }
        (Path(folder) / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> ComposedEncoder:
        """The encoder that `save` wrote into `folder`."""
        from transformers import AutoTokenizer

        facts = json.loads((Path(folder) / FACTS).read_text(encoding="utf-8"))
        image = facts["image_processor"]
        image |= {"mean": tuple(image["mean"]), "std": tuple(image["std"])}
        return cls(
            AutoTokenizer.from_pretrained(folder),
            ImageProcessorFacts(**image),
            facts["tokens_per_image"],
            facts["image_token_id"],
            facts["template"],
        )


def image_token_id(tokenizer: Any, token: str) -> int:
    """The id of image token `token`. Raises UserError where it is missing or several tokens."""
    ids = tokenizer(token, add_special_tokens=False).input_ids
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise UserError(
            f"the tokenizer does not know '{token}' as one token (it becomes {len(ids)}: {ids[:8]})",
            where="model.compose.image_token",
            fix=f"add it with tokenizer.add_special_tokens({{'additional_special_tokens': ['{token}']}})",
        )
    return int(ids[0])


def end_token_id(tokenizer: Any, end: str | None, template: str) -> int:
    """The id of the token that ends an answer: the template's, else the tokenizer's EOS. Raises UserError."""
    if end is None:
        if tokenizer.eos_token_id is None:
            raise UserError("the tokenizer has no end-of-sequence token", where="tokenizer", fix="set its eos_token")
        return int(tokenizer.eos_token_id)
    found = tokenizer.convert_tokens_to_ids(end)
    if found is None or found == tokenizer.unk_token_id:
        raise UserError(
            f"template '{template}' ends answers with {end}, which the tokenizer does not know",
            where="model.compose.template",
            fix="choose another template, or a tokenizer trained for this one",
        )
    return int(found)


def _writes_space_first(tokenizer: Any) -> bool:
    pieces = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False).input_ids)
    return bool(pieces) and str(pieces[0]).startswith("▁")


def start_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's start token where it writes one before every text by itself."""
    ids = tokenizer("", add_special_tokens=True).input_ids
    return tuple(ids[:1]) if ids and ids[0] == tokenizer.bos_token_id else ()
