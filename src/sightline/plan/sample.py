"""A micro-batch as a stage will see it, without a row of its data: shapes alone matter to a rehearsal."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sightline.data.batch import Batch
from sightline.errors import UserError
from sightline.models.composed import ComposedVLM
from sightline.models.connectors import token_count


@dataclass(frozen=True, slots=True)
class RowShape:
    """What rows are taken to be.

    Attributes:
        tokens: of a sequence, its images' included. image_tokens: of one image, in the language tower.
        patches: of one image, as the vision tower gives them. supervised: positions whose logits are computed.
        answers: of the head's vocabulary, where one is chosen; 0 where they are written.
    """

    tokens: int
    image_tokens: int
    patches: int
    supervised: int
    answers: int = 0


def row_shape(model: ComposedVLM, longest: int, tokens: int | None, answers: int = 0) -> RowShape:
    """Rows with one image each; `tokens` None: as long as the stage admits, all behind the image supervised.

    Raises:
        UserError: rows that have no room for an image.
    """
    image = token_count(model.vision.count, model.spec.connector)
    length = tokens or longest
    inside = 0 if model.spec.connector.kind.startswith("gated") else image
    if length <= inside:
        what = f"a row of {length} tokens has no room for an image of {inside}"
        raise UserError(what, where="--tokens", fix=f"give more than {inside}")
    return RowShape(length, inside, model.vision.count, length - inside, answers)


def sample(model: ComposedVLM, shape: RowShape, rows: int) -> Batch:
    """`rows` such rows."""
    ids = torch.zeros(rows, shape.tokens, dtype=torch.int64)
    places = torch.zeros(rows * shape.image_tokens, dtype=torch.int64)
    supervised = torch.zeros(rows * shape.supervised, dtype=torch.int64)
    side = model.vision.image_size
    return Batch(
        input_ids=ids,
        labels=ids,
        position_ids=ids,
        group_ids=ids,
        segment_ids=ids,
        attention_mask=torch.ones(rows, shape.tokens, dtype=torch.bool),
        image_index=torch.zeros(rows, dtype=torch.int64),
        pixel_values=torch.zeros(rows, 3, side, side),
        image_places=places,
        rows=supervised,
        targets=supervised,
        ends=torch.zeros(rows, dtype=torch.int64) if shape.answers else None,
        answers=torch.zeros(rows, shape.answers) if shape.answers else None,
    )


def cached(batch: Batch, model: ComposedVLM, dtype: torch.dtype) -> Batch:
    """The same with the vision tower's features in place of its images."""
    count = len(batch.image_index)
    batch.features = torch.zeros(count, model.vision.count, model.vision.width, dtype=dtype)
    batch.pixel_values = None
    return batch
