"""Retrieval from a file of similarities: recall at 1, 5 and 10, both ways, without a model and without torch.

Ranks are counted as in `retrieval.py`: a query's rank is that of its best right answer, and wrong answers that score
the same stand before it, so that a model that gives every pair one score has found nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sightline.errors import UserError
from sightline.evaluate import bootstrap
from sightline.evaluate.json_file import Source, members

KS = (1, 5, 10)
SIMILARITY, MATCHES = "--similarity", "--matches"
Matrix = NDArray[Any]
Right = NDArray[np.bool_]


def score_retrieval(similarity: Path | Matrix, matches: Source | None = None) -> dict[str, Any]:
    """Recall of images' texts and of texts' images, with 95 % bootstrap intervals over images.

    Args:
        similarity: (N images, M texts), higher is nearer; an array or a .npy file.
        matches: of each image, the numbers of its texts: a list of lists, or `{image number: [text numbers]}`. None
            where each image has M / N texts that follow each other, as COCO's five captions do.

    Raises:
        UserError: no such file, a value that is no number, or matches that do not fit the matrix.
    """
    values = _loaded(similarity) if isinstance(similarity, Path) else np.asarray(similarity)
    if values.ndim != 2 or not values.size or values.dtype.kind not in "fiu":
        raise UserError(f"holds {values.dtype} of shape {values.shape}, not numbers (images, texts)", where=SIMILARITY)
    if np.isnan(values).any():
        raise UserError("holds values that are no numbers (NaN)", where=SIMILARITY)
    right = _right(values.shape, matches)
    images: list[Hashable] = list(range(len(values)))
    there = _direction(ranks(values, right), right, images)
    back = _direction(ranks(values.T, right.T), right.T, right.argmax(0).tolist())
    rsum = sum(100 * way["recall"][str(k)] for way in (there, back) for k in KS)
    return {"image_to_text": there, "text_to_image": back, "rsum": rsum, "partial": False}


def ranks(similarity: Matrix, right: Right) -> NDArray[np.int64]:
    """The 1-based rank of each query's best right answer. Queries are rows; each has a right answer."""
    found = np.empty(len(similarity), np.int64)
    for place, (scores, answers) in enumerate(zip(similarity, right, strict=True)):
        best = scores[answers].max()
        found[place] = 1 + np.count_nonzero((scores >= best) & ~answers)
    return found


def _direction(rank: NDArray[np.int64], right: Right, images: Sequence[Hashable]) -> dict[str, Any]:
    hits = {str(k): (rank <= k).astype(float) for k in KS}
    candidates = right.shape[1]
    return {
        "queries": len(rank),
        "candidates": candidates,
        "recall": {k: float(each.mean()) for k, each in hits.items()},
        "interval": {k: list(bootstrap.interval(each, clusters=images)) for k, each in hits.items()},
        "chance": {str(k): _chance(right.sum(1), candidates, k) for k in KS},
        "median_rank": float(np.sort(rank)[(len(rank) - 1) // 2]),  # of two in the middle the lower, as retrieval.py
    }


def _chance(right: NDArray[np.int64], candidates: int, k: int) -> float:
    """The recall of candidates in an order of chance: one less the odds that all of the first k are wrong."""
    wrong = np.ones(len(right))
    for place in range(min(k, candidates)):
        wrong *= np.maximum(candidates - right - place, 0) / (candidates - place)
    return float((1 - wrong).mean())


def _loaded(path: Path) -> Matrix:
    try:
        return np.load(path, allow_pickle=False)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror or error}", where=f"{SIMILARITY} {path}") from error
    except (ValueError, EOFError) as error:
        fix = "write it with numpy.save(path, array of numbers)"
        raise UserError(f"is no .npy file of numbers ({error})", where=f"{SIMILARITY} {path}", fix=fix) from error


def _right(shape: tuple[int, ...], matches: Source | None) -> Right:
    """(N, M): which texts are which image's."""
    images, texts = shape
    if matches is None:
        if texts % images:
            what = f"{texts} texts are not the same number for each of {images} images"
            raise UserError(what, where=SIMILARITY, fix=f"say with {MATCHES} which texts are which image's")
        return np.repeat(np.eye(images, dtype=bool), texts // images, axis=1)
    right = np.zeros(shape, bool)
    for image, own in _matched(matches):
        if image >= images or not isinstance(own, list) or not own:
            raise UserError(f"image {image} of {images} has no list of texts: {str(own)[:60]}", where=MATCHES)
        for text in own:
            if type(text) is not int or not 0 <= text < texts:
                raise UserError(f"image {image} has text {text!r}, and there are {texts} (from 0)", where=MATCHES)
            right[image, text] = True
    for axis, what in ((1, "image"), (0, "text")):
        if len(lone := np.flatnonzero(~right.any(axis))):
            raise UserError(f"{what} {lone[0]} is matched with nothing", where=MATCHES)
    return right


def _matched(matches: Source) -> list[tuple[int, Any]]:
    found: list[tuple[int, Any]] = []
    for name, value in members(matches, MATCHES):
        if name is None:
            found += [(len(found) + place, own) for place, own in enumerate(value)]
        elif not name.isdecimal():
            raise UserError(f"'{name}' is no number of an image", where=MATCHES)
        else:
            found.append((int(name), value))
    return found
