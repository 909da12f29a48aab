"""Zero-shot classification: an image's class is that whose prompts its embedding is nearest to.

CLIP, arXiv 2103.00020, section 3.1.4: each class is said by every template; the unit vectors of its prompts are
averaged, and the mean is scaled to length 1. A row's class is its answer (its last assistant turn).

Shapes: N images, Q embeddings of one image, C classes, P prompts of a class, E embedding width.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from sightline.atomic import write_json
from sightline.data.batch import IGNORE, Example
from sightline.data.pack import pack
from sightline.data.row import Row, Where
from sightline.errors import UserError, nearest
from sightline.evaluate.answer import Precision, ready
from sightline.evaluate.baselines import with_other_images
from sightline.evaluate.gallery import gallery
from sightline.evaluate.progress import counter
from sightline.evaluate.retrieval import nearness
from sightline.evaluate.score import wilson
from sightline.evaluate.written import write_predictions
from sightline.models.build import Built
from sightline.models.pairs import PairModel
from sightline.recipe.schema import Evaluate, Recipe

FIRST = 5  # as ImageNet's second figure; told where there are more classes than that
Tell = Callable[[int], None]


def evaluate_zero_shot(
    recipe: Recipe,
    built: Built,
    rows: Sequence[Row],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    precision: Precision = "fp32",
    limit: int | None = None,
) -> dict[str, Any]:
    """Classify the images of `rows`; write `predictions.jsonl` and `gallery.json` into `out`.

    An image that several rows give the same class is judged once. Returns what `evaluation.json` is to say.

    Raises:
        UserError: no rows, a model that embeds no pairs, fewer than two classes, or a row of another class.
    """
    started, spec = time.perf_counter(), recipe.evaluate
    asked = _asked(recipe, built, rows)
    partial, asked = bool(limit and limit < len(asked)), asked[:limit] if limit else asked
    words = classes_of(spec, asked)
    tell = counter(progress, len(asked))

    with ready(built.model, next(built.model.parameters()).device, precision):
        prompts = embed_prompts(built, list(words.values()), spec.templates, spec.batch)
        near = nearness(embed_images(built, asked, spec.batch, tell), prompts)
    evaluation = {
        "data": spec.data,
        "metric": "zero-shot",
        "questions": len(asked),
        "partial": partial,
        "classes": words,
        "templates": list(spec.templates),
        **judged(asked, near, list(words), recipe.seed),
        "seconds": time.perf_counter() - started,
    }
    answers = [list(words)[place] for place in near.argmax(1).tolist()]
    marks = [answer == row.answer for answer, row in zip(answers, asked, strict=True)]
    write_predictions(out / "predictions.jsonl", asked, answers, marks, [row.answer for row in asked])
    write_json(out / "gallery.json", gallery(asked, answers, marks, spec.gallery))
    return evaluation


def classes_of(spec: Evaluate, rows: Sequence[Row]) -> dict[str, str]:
    """Each class as the data names it, and the words that stand for it in a prompt."""
    found = sorted({row.answer for row in rows})
    told = spec.classes
    if told is None:
        words = {name: name for name in found}
    else:
        words = dict(told) if isinstance(told, Mapping) else {name: name for name in told}
        for row in rows:
            if row.answer not in words:
                what = f"'{row.answer}' is none of the {len(words)} classes"
                raise UserError(what, where=str(row.where), fix=nearest(row.answer, words))
    if len(words) < 2:
        raise UserError(f"there are {len(words)} classes to choose from", where="evaluate.classes", fix="name them all")
    return words


@torch.no_grad()
def embed_prompts(built: Built, words: Sequence[str], templates: Sequence[str], batch: int) -> Float[Tensor, "C P E"]:
    """Unit vectors of every class's prompts, on the CPU."""
    assert built.pairs is not None
    model, device = cast(PairModel, built.model), next(built.model.parameters()).device
    prompts = [template.replace("{}", word) for word in words for template in templates]
    examples = []
    for number, prompt in enumerate(prompts, 1):
        ids = built.pairs.encode_text(prompt)
        examples.append(Example(Where("evaluate.templates", number), ids, (IGNORE,) * len(ids)))
    found = []
    for start in range(0, len(examples), batch):
        some = examples[start : start + batch]
        texts = built.pairs.collate(pack(some, "none", max(map(len, some)))).to(device)
        found.append(model.embed_texts(texts.input_ids, texts.attention_mask).float().cpu())
    return torch.cat(found).unflatten(0, (len(words), len(templates)))


@torch.no_grad()
def embed_images(built: Built, rows: Sequence[Row], batch: int, tell: Tell) -> Float[Tensor, "N *Q E"]:
    """Unit vectors of the image of each row, on the CPU."""
    assert built.pairs is not None
    model, device = cast(PairModel, built.model), next(built.model.parameters()).device
    found = []
    for start in range(0, len(rows), batch):
        some = [built.pairs.encode(row) for row in rows[start : start + batch]]
        images = built.pairs.collate(pack(some, "none", max(map(len, some)))).to(device)
        found.append(model.embed_images(images).index_select(0, images.image_index).float().cpu())
        tell(len(some))
    return torch.cat(found)


def judged(rows: Sequence[Row], near: Float[Tensor, "N C"], classes: list[str], seed: int) -> dict[str, Any]:
    """How often the nearest class, and one of the nearest five, is the right one; beside chance and other images."""
    if not bool(near.isfinite().all()):
        raise UserError("the model gives similarities that are no numbers", where="evaluate.metric")
    truth = torch.tensor([classes.index(row.answer) for row in rows])
    said = near.argmax(1)
    right = (said == truth).tolist()
    facts: dict[str, Any] = {**_share(right), "chance": 1 / len(classes)}
    if len(classes) > FIRST:
        among = (near.topk(FIRST, dim=1).indices == truth[:, None]).any(1).tolist()
        facts["first_5"] = {**_share(among), "chance": FIRST / len(classes)}
    members: dict[str, list[bool]] = defaultdict(list)
    confusion: dict[str, Counter[str]] = defaultdict(Counter)
    for row, place, mark in zip(rows, said.tolist(), right, strict=True):
        members[row.answer].append(mark)
        confusion[row.answer][classes[place]] += 1
    by_lot = "a class by lot, each as likely as the others"
    baselines = {"chance": {"accuracy": facts["chance"], "description": by_lot}, "majority": _majority(rows)}
    if others := _other_images(rows, said, truth, seed):
        baselines["shuffled_images"] = others
    return facts | {
        "by_group": {name: {"questions": len(marks), **_share(marks)} for name, marks in sorted(members.items())},
        "confusion": {name: dict(counts.most_common()) for name, counts in sorted(confusion.items())},
        "baselines": baselines,
    }


def _asked(recipe: Recipe, built: Built, rows: Sequence[Row]) -> list[Row]:
    where = f"data.{recipe.evaluate.data}"
    if not rows:
        raise UserError("there is nothing to evaluate: the data set has no rows", where=where)
    if built.pairs is None:
        fix = "set evaluate.metric to exact-match, or train a model over pairs"
        raise UserError("this model embeds no images and texts to classify by", where="evaluate.metric", fix=fix)
    for row in rows:
        if len(row.images) != 1 or not row.answer:
            fix = "give each row one image, and its class as the answer"
            raise UserError("an image to classify has one class", where=str(row.where), fix=fix)
    return list({(row.images[0].key, row.answer): row for row in rows}.values())


def _share(marks: Sequence[bool]) -> dict[str, Any]:
    return {"accuracy": sum(marks) / len(marks), "interval": list(wilson(sum(marks), len(marks)))}


def _majority(rows: Sequence[Row]) -> dict[str, Any]:
    ((name, count),) = Counter(row.answer for row in rows).most_common(1)
    return {
        "accuracy": count / len(rows),
        "answer": name,
        "description": "the most frequent class of these images, given to all of them",
    }


def _other_images(rows: Sequence[Row], said: Tensor, truth: Tensor, seed: int) -> dict[str, Any] | None:
    exchanged = with_other_images(rows, seed)
    if exchanged is None:
        return None
    of = {row.images[0].key: int(place) for row, place in zip(rows, said, strict=True)}
    marks = [of[row.images[0].key] == int(true) for row, true in zip(exchanged, truth, strict=True)]
    return {**_share(marks), "description": "the same classes, every image exchanged for another one"}
