"""An answer head: logits of a vocabulary's answers from one hidden state of the language tower.

Two layers over a joint representation of question and image, and a sigmoid for each answer (Teney et al. 2017, arXiv
1708.02711; the first twice as wide, a ReLU and dropout 0.5 as in github.com/hengyuan-hu/bottom-up-attention-vqa). Where
this head departs: the joint representation is not a product of a question's and an image's vector, but the language
tower's state at the prompt's last token, which has seen both; and the layers are plain linear maps, without weight
normalisation.

Shapes: E examples, D width of the language tower, A answers.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sightline.data.row import Row
from sightline.data.vocabulary import vocabulary
from sightline.errors import UserError
from sightline.recipe.schema import HeadSpec


def answer_head(width: int, answers: int, spec: HeadSpec) -> nn.Sequential:
    """(E, D) to (E, A)."""
    hidden = spec.hidden or 2 * width
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(spec.dropout), nn.Linear(hidden, answers))


def count_answers(spec: HeadSpec, rows: Iterable[Row]) -> tuple[str, ...]:
    """The vocabulary of a head: what `rows` are answered with, in the order of its outputs.

    Raises:
        UserError: fewer than two answers to choose from.
    """
    found = vocabulary(rows, min_count=spec.min_count, size=spec.answers)
    if len(found) < 2:
        what = f"{len(found)} answers are given {spec.min_count} times or more, so there is nothing to choose between"
        raise UserError(what, where="model.compose.head.min_count", fix="lower it, or give more rows with answers")
    return found
