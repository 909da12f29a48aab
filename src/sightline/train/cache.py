"""Vision features of a stage's images, encoded once: what a frozen tower says of an image never changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import psutil
import torch
from torch import Tensor

from sightline.data.batch import IGNORE
from sightline.data.batch import Sequence as TokenSequence
from sightline.data.encode import Encoder
from sightline.data.row import ImageRef, Row
from sightline.errors import UserError
from sightline.models.vlm import VLM
from sightline.train.precision import Precision

PER_PASS = 64  # images in one forward pass of the vision tower
SHARE = 0.5  # of the free memory that the cache may take: the rest is the run's


class FeatureCache:
    """(N, P, D) features on the CPU, looked up by image keys."""

    def __init__(self, features: Tensor, places: dict[str, int]) -> None:
        self._features, self._places = features, places

    def __call__(self, keys: tuple[str, ...]) -> Tensor:
        """(len(keys), P, D) features of the images `keys`."""
        return self._features[[self._places[key] for key in keys]]


def encode_all(
    model: VLM, encoder: Encoder, rows: Iterable[Row], precision: Precision, advance: Callable[[int], None]
) -> FeatureCache:
    """Encode every distinct image of `rows` with the (frozen) vision tower of `model`.

    Raises:
        UserError: the features would not fit in memory.
    """
    if encoder.tokens_per_image is None:
        fix = "set cache_features to false"
        raise UserError(
            "this model's images have no features apart from their prompts", where="cache_features", fix=fix
        )
    images = {image.key: (image, row) for row in rows for image in row.images}
    if not images:
        raise UserError("there are no images to encode", fix="set cache_features to false")
    places = {key: place for place, key in enumerate(images)}
    store: Tensor | None = None
    filled = 0
    for some in _chunks(list(images.values()), PER_PASS):
        sequences = [_alone(image, row, encoder.image_token_id, encoder.tokens_per_image) for image, row in some]
        batch = encoder.collate(sequences).to(precision.device)
        assert batch.pixel_values is not None
        with torch.no_grad(), precision.autocast():
            features = model.encode_images(batch.pixel_values).cpu()
        if store is None:
            store = _room(len(images), features)
        store[filled : filled + len(features)] = features
        filled += len(features)
        advance(len(features))
    assert store is not None
    return FeatureCache(store, places)


def _alone(image: ImageRef, row: Row, token: int, count: int) -> TokenSequence:
    """A sequence of nothing but one image placeholder, so that the encoder's own preprocessing is used."""
    tokens = (token,) * count
    zeros = (0,) * len(tokens)
    return TokenSequence(tokens, (IGNORE,) * len(tokens), zeros, zeros, zeros, (image,), (row.where,))


def _room(count: int, features: Tensor) -> Tensor:
    needed = count * features[0].numel() * features.element_size()
    free = psutil.virtual_memory().available
    if needed > SHARE * free:
        raise UserError(
            f"the features of {count:,} images need {needed / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free",
            fix="set cache_features to false",
        )
    return torch.empty((count, *features.shape[1:]), dtype=features.dtype)


def _chunks(items: Sequence[tuple[ImageRef, Row]], size: int) -> Iterator[list[tuple[ImageRef, Row]]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
