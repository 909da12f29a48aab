"""A trained model as attacks see it: pixels from 0 to 1 in, the loss of the true answer out, and its real answers.

Attacked are the pixels that the vision tower is given, before its mean and standard deviation are taken out: an 8-bit
picture of the tower's size, k / 255 in each channel. That is an image file, too: written and read again it passes
through the same preprocessing unchanged (resizing to the size it has does nothing), so attacked pixels, rounded to 8
bits, are answered about by way of a file, as any picture is.

Shapes: B rows, N pictures (each row's own, so no two rows share one), H and W of the tower's input.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sightline.data.batch import IGNORE, Batch, Example
from sightline.data.pack import pack
from sightline.data.row import ImageRef, Row
from sightline.data.scale import Scale, scale_of
from sightline.errors import UserError
from sightline.evaluate.answer import Answerer, Precision
from sightline.evaluate.robust.attacks.target import Loss, Target
from sightline.evaluate.robust.shown import Substituting, picture, with_pictures
from sightline.models.build import Built

NAMES = count()  # of pictures in this process: an encoder keeps what it decoded by a picture's name, whoever asks


@dataclass(frozen=True, slots=True)
class Shown:
    """Rows and their pictures as the tower is given them.

    Attributes:
        batch: one sequence a row; the n-th picture stands at the n-th placeholder, reading on from row to row.
        pixels: (N, 3, H, W) fp32, k / 255.
        owner: (N,) int64, the row of each picture.
    """

    rows: tuple[Row, ...]
    batch: Batch
    pixels: Tensor
    owner: Tensor


class View(ABC):
    """See the module.

    Args:
        precision: of the forward passes; the attack's gradient is taken in the precision of the answers.
    """

    def __init__(self, built: Built, encoder: Any, batch: int, precision: Precision) -> None:
        self.built, self.encoder, self.batch_size, self.precision = built, encoder, batch, precision
        self.scale: Scale = scale_of(encoder)
        self.device = next(built.model.parameters()).device

    def show(self, rows: Sequence[Row]) -> Shown:
        """`rows` as a batch. Raises UserError where the tower's input is no picture of pixels."""
        apart = [_own_images(row, next(NAMES)) for row in rows]
        owner = torch.tensor([place for place, row in enumerate(rows) for _ in row.images], dtype=torch.int64)
        batch = self._collate(apart).to(self.device)
        values = batch.pixel_values
        if values is None or values.ndim != 4 or values.shape[1] != 3 or len(values) != len(owner):
            raise no_picture()
        return Shown(tuple(rows), batch, self.scale.pixels(values), owner.to(self.device))

    def target(self, shown: Shown, seed: int) -> Target:
        """What attacks are given. Each picture's seed is that of its pixels and of its row's question."""
        return Target(shown.pixels, shown.owner, self.loss(shown), _seeds(shown, seed))

    def loss(self, shown: Shown) -> Loss:
        """The loss of each row's true answer, given pixels in place of its own."""

        def of(pixels: Tensor) -> Tensor:
            with self.built.model.evaluating(), self._autocast():
                return self._losses(shown, self.with_pixels(shown.batch, pixels))

        return of

    def with_pixels(self, batch: Batch, pixels: Tensor) -> Batch:
        """`batch` with `pixels` in place of its own, from which gradients flow."""
        return replace(batch, pixel_values=self.scale.values(pixels))

    def handed(self, batch: Batch, pixels: Mapping[str, Tensor]) -> Batch:
        """`batch` with (3, H, W) `pixels` in place of the images whose keys they have."""
        if batch.pixel_values is None:
            return batch
        values = batch.pixel_values.clone()
        for place, key in enumerate(batch.image_keys):
            if key in pixels:
                values[place] = self.scale.values(pixels[key].to(values.device)).to(values.dtype)
        return replace(batch, pixel_values=values)

    def in_files(self, rows: Sequence[Row], owner: Tensor, pixels: Tensor) -> list[Row]:
        """`rows` with `pixels`, rounded to 8 bits, in files of their own."""
        return with_pictures(rows, owner.tolist(), [picture(one) for one in pixels], f"attacked/{next(NAMES)}")

    def answer_floats(self, rows: Sequence[Row], owner: Tensor, pixels: Tensor) -> list[str]:
        """The answers to `rows` given `pixels` as they are, unrounded."""
        shown = self.in_files(rows, owner, pixels)
        keys = [image.key for row, own in zip(shown, rows, strict=True) if own.images for image in row.images]
        self._substituting.pixels = dict(zip(keys, pixels, strict=True))
        try:
            return self._answer_floats(shown)
        finally:
            self._substituting.pixels = {}

    @property
    def _substituting(self) -> Substituting:
        if not hasattr(self, "_substitute"):
            self._substitute = Substituting(self.encoder, self.handed)
        return self._substitute

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return nullcontext() if self.precision == "fp32" else torch.autocast(self.device.type, dtype=dtype)

    @abstractmethod
    def answer(self, rows: Sequence[Row]) -> list[str]:
        """The model's real answers, as an evaluation gets them."""

    @abstractmethod
    def _collate(self, rows: Sequence[Row]) -> Batch:
        """`rows` with their true answers as one batch."""

    @abstractmethod
    def _losses(self, shown: Shown, batch: Batch) -> Tensor:
        """(B,) the loss of each row's true answer."""

    @abstractmethod
    def _answer_floats(self, rows: Sequence[Row]) -> list[str]:
        """As `answer`, of what `_substituting` hands in."""


class AnswerView(View):
    """A model that answers questions: composed or adopted, in words or by a head."""

    def __init__(self, built: Built, *, batch: int, max_new_tokens: int, precision: Precision) -> None:
        super().__init__(built, built.answers or built.encoder, batch, precision)
        settings: dict[str, Any] = {"batch": batch, "max_new_tokens": max_new_tokens, "precision": precision}
        self._by_file = Answerer(built, **settings)
        encoder: Any = self._substituting
        unrounded = {"answers": encoder} if built.answers else {"encoder": encoder}
        self._by_floats = Answerer(replace(built, **unrounded), **settings)

    def answer(self, rows: Sequence[Row]) -> list[str]:
        return self._by_file(rows)

    def _answer_floats(self, rows: Sequence[Row]) -> list[str]:
        return self._by_floats(rows)

    def _collate(self, rows: Sequence[Row]) -> Batch:
        examples = [self._last_answer(row) for row in rows]
        return self.encoder.collate(pack(examples, "none", max(map(len, examples))))

    def _last_answer(self, row: Row) -> Example:
        """`row` with labels on its last answer alone: what an evaluation asks for. A head's examples have none."""
        example = self.encoder.encode(row)
        if self.built.answers:
            return example
        asked = len(self.encoder.encode_prompt(row))
        labels = (IGNORE,) * asked + example.labels[asked:]
        return replace(example, labels=labels) if any(label != IGNORE for label in labels) else example

    def _losses(self, shown: Shown, batch: Batch) -> Tensor:
        if self.built.answers:
            assert batch.answers is not None
            logits = self.built.model(batch, "answers").float()
            return F.binary_cross_entropy_with_logits(logits, batch.answers, reduction="none").sum(1)
        logits, targets = self.built.model(batch)
        each = F.cross_entropy(logits.float(), targets, reduction="none")
        assert batch.labels is not None
        supervised = (batch.labels[:, 1:] != IGNORE).sum(1)
        row = torch.repeat_interleave(torch.arange(len(supervised), device=each.device), supervised)
        return each.new_zeros(len(supervised)).index_add(0, row, each)


def no_picture() -> UserError:
    """What to tell where a model's input is not a picture, nor a selection of its pixels."""
    return UserError(
        "this model makes tiles or more of its images by itself, so it has no picture to attack",
        where="evaluate.robust.attacks",
        fix="set evaluate.robust.attacks=[]; corruptions, words and contradiction work with every model",
    )


def _own_images(row: Row, number: int) -> Row:
    """`row` with keys for its images that no other row has, so that a batch holds a copy for each row."""
    images = tuple(_renamed(image, f"own/{number}/{place}") for place, image in enumerate(row.images))
    return replace(row, images=images)


def _renamed(image: ImageRef, key: str) -> ImageRef:
    return replace(image, key=key)


def _seeds(shown: Shown, seed: int) -> list[int]:
    """A seed for each picture: of what it shows and what is asked of it, not of where it stands."""
    made = []
    for pixels, owner in zip(shown.pixels, shown.owner.tolist(), strict=True):
        levels = pixels.mul(255).round().to(torch.uint8).cpu().numpy().tobytes()
        asked = f"{seed} {shown.rows[owner].question}".encode()
        made.append(int.from_bytes(hashlib.blake2b(levels + asked, digest_size=7).digest(), "little"))
    return made
