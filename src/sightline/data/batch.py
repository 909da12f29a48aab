"""Example, Sequence and Batch: a row as tokens, examples that share one sequence, and sequences as tensors.

Shapes: B sequences, T tokens, N distinct images, M image placeholders, P tokens an image, D width, E examples, A
answers of a vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from sightline.data.row import ImageRef, Skipped, Where

IGNORE = -100  # the label of a token that is not supervised (torch's cross-entropy default)
PREFIX = 0  # the segment that all other segments of its group may look at
PAD_GROUP = -1

Marks = tuple[tuple[int, float], ...]  # (answer of the vocabulary, its mark in (0, 1]); an answer not named has 0


@dataclass(frozen=True, slots=True)
class Example:
    """One row as tokens. `labels[i]` is `input_ids[i]` where it is supervised, else IGNORE (not yet shifted).

    The first `prefix` tokens depend on nothing but the system turn and the image, so examples of one image with
    equal prefixes can share them in one packed sequence. `marks`: of the answers, for a model that chooses one.
    """

    where: Where
    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    images: tuple[ImageRef, ...] = ()
    prefix: int = 0
    marks: Marks = ()

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True, slots=True)
class Sequence:
    """One or several examples in one sequence of the batch.

    Token i may look at token j when j <= i, both have the same group, and j's segment is i's own or PREFIX.
    Positions restart with each group, and each segment's continue from its group's prefix. Example k's last token
    stands at `ends[k]`; its `marks` are the example's own.
    """

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    position_ids: tuple[int, ...]
    group_ids: tuple[int, ...]
    segment_ids: tuple[int, ...]
    images: tuple[ImageRef, ...]
    examples: tuple[Where, ...]
    ends: tuple[int, ...] = ()
    marks: tuple[Marks, ...] = ()

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(slots=True)
class Batch:
    """What a model is given.

    Attributes:
        input_ids, labels, position_ids, group_ids, segment_ids: (B, T) int64. No labels where answers are chosen.
        attention_mask: (B, T) bool, False on padding.
        pixel_values: (N, 3, H, W) float32, each distinct image once; None for a batch of text alone, and where
            `extra` or `features` carries the images.
        image_index: (M,) int64: which of the N images the m-th placeholder span shows (reading order over the batch).
        features: (N, P, D) cached vision features that stand in for `pixel_values`.
        extra: an adopted model's own inputs (`image_grid_thw`, ...), passed on by name.
        image_keys: the N images' keys. examples: the place of each example, in order.
        image_places: (K,) int64: where image placeholders stand in the flattened (B T) tokens.
        rows, targets: (S,) int64: see `supervised`; filled in by `to`, on the host, when a batch goes to a device.
        skipped: samples of a stream that were drawn for this batch and are broken.
        ends: (E,) int64: where each example's last token stands in the flattened (B T) tokens.
        answers: (E, A) float32: what each answer of a vocabulary is worth as the answer to each example.
        packed: True when some sequence holds more than one group or segment, so a block mask is needed.
    """

    input_ids: Tensor
    labels: Tensor | None
    position_ids: Tensor
    group_ids: Tensor
    segment_ids: Tensor
    attention_mask: Tensor
    image_index: Tensor
    pixel_values: Tensor | None = None
    features: Tensor | None = None
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    image_keys: tuple[str, ...] = ()
    examples: tuple[Where, ...] = ()
    image_places: Tensor | None = None
    rows: Tensor | None = None
    targets: Tensor | None = None
    ends: Tensor | None = None
    answers: Tensor | None = None
    packed: bool = False
    skipped: tuple[Skipped, ...] = ()

    @property
    def tokens(self) -> int:
        """Number of supervised tokens: labels that have a token before them to be predicted from."""
        return 0 if self.labels is None else int((self.labels[:, 1:] != IGNORE).sum())

    def supervised(self) -> tuple[Tensor, Tensor]:
        """Rows of the flattened (B T) positions whose next token has a label, and those labels."""
        if self.rows is not None and self.targets is not None:
            return self.rows, self.targets
        following = torch.full_like(self.input_ids, IGNORE)
        if self.labels is not None:
            following[:, :-1] = self.labels[:, 1:]
        following = following.flatten()
        rows = (following != IGNORE).nonzero().squeeze(1)
        return rows, following[rows]

    def to(self, device: torch.device) -> Batch:
        """This batch on `device` (asynchronously from pinned memory)."""
        if device != self.input_ids.device and self.rows is None:
            # Found here: how many there are decides shapes, so a GPU would have to be waited for.
            rows, targets = self.supervised()
            return replace(self, rows=rows, targets=targets).to(device)
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name in self.__slots__
            if isinstance(value := getattr(self, name), Tensor)
        }
        extra = {name: value.to(device, non_blocking=True) for name, value in self.extra.items()}
        return replace(self, **moved, extra=extra)
