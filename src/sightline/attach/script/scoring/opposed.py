"""Vectors of a model's that a metric compares with each other, as an image's and its text's: is the nearest the best?

Where both are the same, each row's nearest is its own. A metric that is perfect for vectors that point the other way,
and next to nothing for the same ones and for those of other rows, takes the least similar for the most similar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from sightline.attach.script.scoring.verdict import Verdict, moved, whole

ROWS = 8
LITTLE = 0.25  # of the whole: an error of vectors in no relation has half of what opposite ones have

Score = Callable[[Tensor, Tensor], Mapping[str, float]]


def opposed(one: Tensor, other: Tensor, score: Score) -> dict[tuple[str, str], Verdict]:
    """By (name of the number, form): what the metric takes for the most similar."""
    fit = one.shape == other.shape and one.dim() == 2 and one.is_floating_point() and other.is_floating_point()
    if not fit or len(one) < ROWS or not bool(one.isfinite().all()) or len(one.unique(dim=0)) < len(one):
        return {}
    same, turned = score(one, one), score(-one, one)
    names = [name for name, value in turned.items() if whole(value, set()) and same.get(name, value) <= LITTLE * value]
    shifted = [score(moved(one, by), one) for by in (1, 2, 3)] if names else []
    says = "the least similar of all"
    return {
        (name, says): Verdict(name, same[name], spoilt, turned[name], says)
        for name in names
        if max(spoilt := tuple(each.get(name, turned[name]) for each in shifted)) <= LITTLE * turned[name]
    }
