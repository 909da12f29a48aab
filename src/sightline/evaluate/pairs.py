"""A model over pairs, judged on held-out pairs: retrieval both ways, matching, and how likely the captions are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.answer import Precision, ready
from sightline.evaluate.judge import Found, Judge
from sightline.evaluate.progress import counter
from sightline.evaluate.retrieval import ranks
from sightline.models.build import Built
from sightline.recipe.schema import Recipe


def evaluate_pairs(
    recipe: Recipe,
    built: Built,
    rows: Sequence[Row],
    progress: Callable[[int, int], None] | None = None,
    *,
    precision: Precision = "fp32",
    limit: int | None = None,
) -> dict[str, Any]:
    """Embed every image and text of `rows`; return what `evaluation.json` is to say.

    With `evaluate.rerank` k, the matching head scores the k nearest candidates of each query again, and its probability
    is added to their similarity, as in BLIP-2's released evaluation (arXiv 2301.12597, section 4.4).

    Raises:
        UserError: no rows, fewer than two images, a model that embeds no pairs, or none to rerank with.
    """
    started = time.perf_counter()
    asked = _asked(recipe, built, rows, limit)
    judge = Judge(built, recipe.evaluate.batch)
    tell = counter(progress, len(asked))

    with ready(built.model, judge.device, precision):
        evaluation: dict[str, Any] = {
            "data": recipe.evaluate.data,
            "metric": "retrieval",
            "questions": len(asked),
            "partial": len(asked) < len(rows),
            **_judged(judge, judge.embed(asked, tell), recipe),
        }
    evaluation["seconds"] = time.perf_counter() - started
    return evaluation


def _asked(recipe: Recipe, built: Built, rows: Sequence[Row], limit: int | None) -> list[Row]:
    """The rows to judge. Raises UserError where there are none, or the model embeds no pairs."""
    if not rows:
        what = "there is nothing to evaluate: the data set has no rows"
        raise UserError(what, where=f"data.{recipe.evaluate.data}")
    if built.pairs is None:
        fix = "set evaluate.metric to exact-match, or train a model over pairs"
        raise UserError("this model embeds no images and texts to retrieve by", where="evaluate.metric", fix=fix)
    return list(rows[:limit]) if limit else list(rows)


def _judged(judge: Judge, found: Found, recipe: Recipe) -> dict[str, Any]:
    """Retrieval both ways and what the model's heads say. Raises UserError where the rows cannot show it."""
    where = f"data.{recipe.evaluate.data}"
    if len(found.images) < 2:
        raise UserError("retrieval needs at least two different images", where=where)
    similarity, right = found.similarity(), found.right()
    if len(fitting := right.all(0).nonzero().flatten()):
        place = found.examples[int(fitting[0])].where
        raise UserError(f"the text of {place} is that of every image, so no image can be told by it", where=where)
    k = recipe.evaluate.rerank
    by_image, by_text = judge.rerank(found, similarity, k) if k else (similarity, similarity)
    return {
        "images": len(found.images),
        "rerank": k,
        "image_to_text": ranks(by_image, right).facts(),
        "text_to_image": ranks(by_text.T, right.T).facts(),
        **judge.heads(found, similarity),
    }
