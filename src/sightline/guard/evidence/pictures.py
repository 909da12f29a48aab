"""What images have in common over batches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PicturesSeen:
    """All images of the training batches so far are one, to the last bit, and what is taught about them differs.

    Attributes:
        batches, images: how many of either were compared.
        value: of every pixel, where the one image has but one; None where it has several.
        shape: of an image.
        over: others came then: these stood for none, in a stage of texts alone.
    """

    step: int
    batches: int
    images: int
    shape: tuple[int, ...]
    value: float | None = None
    over: bool = False
