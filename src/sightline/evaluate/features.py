"""Vision features of a data set: each image encoded once, as many held as there is memory set aside for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from sightline.data.batch import Batch, Example

FEATURE_BYTES = 1 << 30  # 1,000 images of 512 tokens of width 1,024 in bf16

Lookup = Callable[[tuple[str, ...]], Tensor]  # image keys -> (N, P, D)


class Collate(Protocol):
    """Prompts as a batch on the model's device; `lookup` stands in for their pixels."""

    def __call__(self, examples: list[Example], lookup: Lookup | None, /) -> Batch: ...


class ImageFeatures:
    """The features of the images asked about, by key, kept from one pass over them to the next.

    Args:
        collate: makes the batches whose pixels are encoded.
        encode: (N, 3, H, W) pixels -> (N, P, D) features.
        per_pass: prompts in one encoding pass.
    """

    def __init__(
        self, collate: Collate, encode: Callable[[Tensor], Tensor], per_pass: int, budget: int = FEATURE_BYTES
    ) -> None:
        self._collate, self._encode, self._per_pass, self._budget = collate, encode, per_pass, budget
        self._kept: dict[str, Tensor] = {}

    def windows(self, examples: list[Example]) -> Iterator[list[int]]:
        """Places in `examples`, in windows whose images `lookup` knows when the window is given out."""
        places = _image_order(examples)
        first = next((example for example in examples if example.images), None)
        if first is None:
            yield places
            return
        self._fill([first])
        one = self._kept[first.images[0].key]
        capacity = max(1, self._budget // (one.numel() * one.element_size()))
        for window in _split(examples, places, capacity):
            needed = {image.key for place in window for image in examples[place].images}
            if len(needed | self._kept.keys()) > capacity:
                self._kept = {key: kept for key, kept in self._kept.items() if key in needed}
            self._fill([examples[place] for place in window])
            yield window

    def _fill(self, examples: list[Example]) -> None:
        """Encode what is not kept yet."""
        missing, seen = [], set(self._kept)
        for example in examples:
            keys = {image.key for image in example.images}
            if not keys <= seen:
                missing.append(example)
                seen |= keys
        for start in range(0, len(missing), self._per_pass):
            batch = self._collate(missing[start : start + self._per_pass], None)
            assert batch.pixel_values is not None, "prompts with images were collated without pixels"
            new = [place for place, key in enumerate(batch.image_keys) if key not in self._kept]
            encoded = self._encode(batch.pixel_values[new])
            for place, features in zip(new, encoded, strict=True):
                # A copy: a view would keep the whole pass in memory for one image of it.
                self._kept[batch.image_keys[place]] = features.clone()

    def lookup(self, keys: tuple[str, ...]) -> Tensor:
        """(N, P, D) features of the images `keys`, which the present window must have."""
        return torch.stack([self._kept[key] for key in keys])


def _image_order(examples: list[Example]) -> list[int]:
    """Places ordered so that examples of one image stand together, images as they first appear."""
    first: dict[str, int] = {}
    for example in examples:
        for image in example.images[:1]:
            first.setdefault(image.key, len(first))
    return sorted(range(len(examples)), key=lambda i: first[examples[i].images[0].key] if examples[i].images else -1)


def _split(examples: list[Example], places: list[int], capacity: int) -> Iterator[list[int]]:
    """Runs of `places` with at most `capacity` distinct images (or one example's, where it alone has more)."""
    window: list[int] = []
    held: set[str] = set()
    for place in places:
        keys = {image.key for image in examples[place].images}
        if window and len(held | keys) > capacity:
            yield window
            window, held = [], set()
        window.append(place)
        held |= keys
    if window:
        yield window
