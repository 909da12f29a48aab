"""Embedded pairs and what tells them apart: the image they show and the words they say."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from sightline.data.batch import Batch
from sightline.losses.alike import alike
from sightline.models.pairs import Pairs


@dataclass(frozen=True, slots=True)
class Embedded:
    """Embeddings of one or several micro-batches, the images they are of, and the words they say.

    `slow_image`, `slow_text`: those of the model's slow copy, where it has one; they have no gradients.
    """

    image: Tensor
    text: Tensor
    ids: Tensor
    words: Tensor
    slow_image: Tensor | None = None
    slow_text: Tensor | None = None


def embedded(pairs: Pairs, batch: Batch, slow: Pairs | None = None) -> Embedded:
    """A micro-batch's embeddings with its names, on their device."""
    device = pairs.text.device
    names = image_ids(batch).to(device), text_ids(batch).to(device)
    return Embedded(pairs.image, pairs.text, *names, *((slow.image, slow.text) if slow else ()))


def joined(parts: list[Embedded]) -> Embedded:
    """Micro-batches as one, its embeddings leaves that collect their gradients."""
    image, text, ids, words = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("image", "text", "ids", "words")
    )
    slow_image = [part.slow_image for part in parts if part.slow_image is not None]
    slow_text = [part.slow_text for part in parts if part.slow_text is not None]
    slow = (torch.cat(slow_image), torch.cat(slow_text)) if slow_image else ()
    return Embedded(image.requires_grad_(), text.requires_grad_(), ids, words, *slow)


def image_ids(batch: Batch) -> Tensor:
    """(B,) int64: equal where pairs show the same image, on all ranks and in every process."""
    ids = torch.tensor([_digest(key) for key in batch.image_keys], dtype=torch.int64)
    return ids[batch.image_index.cpu()]


def text_ids(batch: Batch) -> Tensor:
    """(B,) int64: equal where pairs say the same, on all ranks and in every process."""
    rows = zip(batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True)
    said = [" ".join(str(token) for token, real in zip(*row, strict=True) if real) for row in rows]
    return torch.tensor([_digest(text) for text in said], dtype=torch.int64)


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)


def alike_in(batch: Batch) -> Tensor:
    """(B,): equal for this batch's pairs that are no negatives of each other; all 0 where there are no negatives."""
    return alike(image_ids(batch), text_ids(batch))
