"""Sequences to a batch: padding, and every distinct image decoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sightline.data.batch import IGNORE, PAD_GROUP, PREFIX, Batch, Sequence
from sightline.data.images import load_image
from sightline.data.pixels import ImageProcessorFacts, normalised, resized
from sightline.data.row import ImageRef, Where

STORE_BYTES = 256 * 2**20  # per process; the quickstart's 4,000 images of 64 x 64 need 47 MiB
FILLS = {"input_ids": None, "labels": IGNORE, "position_ids": 0, "group_ids": PAD_GROUP, "segment_ids": PREFIX}


class PixelStore:
    """Images as 8-bit tensors of the tower's size, the recently used ones kept in memory up to STORE_BYTES."""

    def __init__(self, facts: ImageProcessorFacts) -> None:
        self.facts = facts
        self._kept: OrderedDict[str, Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, ref: ImageRef, where: Where) -> Tensor:
        """The image as (3, size, size) uint8. Raises RowError where it cannot be decoded."""
        kept = self._kept.get(ref.key)
        if kept is not None:
            self._kept.move_to_end(ref.key)
            return kept
        made = resized(load_image(ref, where), self.facts)
        if ref.view is not None:  # it will not be asked for again
            return made
        self._kept[ref.key] = made
        self._bytes += made.numel()
        while self._bytes > STORE_BYTES:
            self._bytes -= self._kept.popitem(last=False)[1].numel()
        return made

    def __getstate__(self) -> ImageProcessorFacts:
        return self.facts  # a data loading process starts with an empty store of its own

    def __setstate__(self, facts: ImageProcessorFacts) -> None:
        self.__init__(facts)  # type: ignore[misc]


def collate(
    sequences: list[Sequence],
    *,
    pad_id: int,
    pixels: PixelStore,
    flip: torch.Generator | None = None,
    pad_left: bool = False,
    features: Callable[[tuple[str, ...]], Tensor] | None = None,
) -> Batch:
    """`sequences` as one batch; see `Encoder.collate`. Raises RowError where an image cannot be decoded."""
    refs, index = distinct_images(sequences)
    values = None
    if refs and features is None:
        values = torch.stack([pixels.get(ref, where) for ref, where in refs.values()])
        values = normalised(_flipped(values, flip), pixels.facts)
    keys = tuple(refs)
    return Batch(
        **pad(sequences, pad_id, pad_left),
        image_index=index,
        pixel_values=values,
        features=features(keys) if features is not None and refs else None,
        image_keys=keys,
        examples=tuple(where for sequence in sequences for where in sequence.examples),
        packed=any(len(sequence.examples) > 1 for sequence in sequences),
    )


def distinct_images(sequences: list[Sequence]) -> tuple[dict[str, tuple[ImageRef, Where]], Tensor]:
    """The batch's images by key in order of first use, and (M,) int64: which of them each placeholder span shows."""
    refs: dict[str, tuple[ImageRef, Where]] = {}
    spans: list[str] = []
    for sequence in sequences:
        for ref in sequence.images:
            refs.setdefault(ref.key, (ref, sequence.examples[0]))
            spans.append(ref.key)
    number = {key: i for i, key in enumerate(refs)}
    return refs, torch.tensor([number[key] for key in spans], dtype=torch.int64)


def pad(sequences: list[Sequence], pad_id: int, left: bool) -> dict[str, Any]:
    """The per-token fields as (B, T) tensors, T the longest sequence, and the attention mask."""
    longest = max(map(len, sequences))
    fields = {}
    for name, fill in FILLS.items():
        padded = np.full((len(sequences), longest), pad_id if fill is None else fill, dtype=np.int64)
        for line, sequence in zip(padded, sequences, strict=True):
            line[longest - len(sequence) if left else 0 :][: len(sequence)] = getattr(sequence, name)
        fields[name] = torch.from_numpy(padded)
    return fields | {"attention_mask": fields["group_ids"] != PAD_GROUP}


def _flipped(pixels: Tensor, flip: torch.Generator | None) -> Tensor:
    """(N, 3, H, W) with each image mirrored with probability 1/2."""
    if flip is None:
        return pixels
    chosen = torch.rand(len(pixels), generator=flip) < 0.5
    return torch.where(chosen[:, None, None, None], pixels.flip(3), pixels)
