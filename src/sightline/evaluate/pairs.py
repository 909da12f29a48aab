"""A model over pairs, judged on held-out pairs: retrieval both ways, matching, and how likely the captions are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sightline.atomic import write_json
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.answer import Precision, ready
from sightline.evaluate.judge import Judge
from sightline.evaluate.retrieval import ranks
from sightline.models.build import Built
from sightline.recipe.schema import Recipe


def evaluate_pairs(
    recipe: Recipe,
    built: Built,
    rows: Sequence[Row],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    precision: Precision = "fp32",
    limit: int | None = None,
) -> dict[str, Any]:
    """Embed every image and text of `rows`, write `evaluation.json` into `out`, and return what it says.

    With `evaluate.rerank` k, the matching head scores the k nearest candidates of each query again, and its probability
    is added to their similarity, as in BLIP-2's released evaluation (arXiv 2301.12597, section 4.4).

    Raises:
        UserError: no rows, fewer than two images, a model that embeds no pairs, or none to rerank with.
    """
    started = time.perf_counter()
    asked = list(rows[:limit]) if limit else list(rows)
    where = f"data.{recipe.evaluate.data}"
    if not asked:
        raise UserError("there is nothing to evaluate: the data set has no rows", where=where)
    if built.pairs is None:
        fix = "set evaluate.metric to exact-match, or train a model over pairs"
        raise UserError("this model embeds no images and texts to retrieve by", where="evaluate.metric", fix=fix)
    judge = Judge(built, recipe.evaluate.batch)
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, len(asked))

    with ready(built.model, judge.device, precision):
        found = judge.embed(asked, tell)
        if len(found.images) < 2:
            raise UserError("retrieval needs at least two different images", where=where)
        similarity, right = found.similarity(), found.right()
        if len(fitting := right.all(0).nonzero().flatten()):
            place = found.examples[int(fitting[0])].where
            raise UserError(f"the text of {place} is that of every image, so no image can be told by it", where=where)
        by_image, by_text = (
            judge.rerank(found, similarity, recipe.evaluate.rerank)
            if recipe.evaluate.rerank
            else (
                similarity,
                similarity,
            )
        )
        evaluation: dict[str, Any] = {
            "data": recipe.evaluate.data,
            "metric": "retrieval",
            "questions": len(asked),
            "partial": len(asked) < len(rows),
            "images": len(found.images),
            "rerank": recipe.evaluate.rerank,
            "image_to_text": ranks(by_image, right).facts(),
            "text_to_image": ranks(by_text.T, right.T).facts(),
            **judge.heads(found, similarity),
        }
    evaluation["seconds"] = time.perf_counter() - started
    write_json(out / "evaluation.json", evaluation)
    return evaluation
