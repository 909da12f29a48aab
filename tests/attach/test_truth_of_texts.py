"""Metrics of texts that take the tokens round a text for text, on one side alone; and those that are right to fall
short of 1."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn
from transformers import EvalPrediction

from sightline.attach.truth_of_texts import texts_truths
from sightline.guard.check import Finding
from sightline.guard.checks.evaluation.metric_fails_oracle import find

PAD, END, LETTERS = 0, 1, 20
WORDS = ["<pad>", "</s>", *"abcdefghijklmnopqrst"]
Metric = Callable[[Any], dict[str, float]]


class Translator(nn.Linear):
    """Begins with padding, as T5 does."""

    config = SimpleNamespace(is_encoder_decoder=True)
    generation_config = SimpleNamespace(eos_token_id=END, pad_token_id=PAD, decoder_start_token_id=PAD)


def decoded(ids: Any, *, skip: bool, instead: int = PAD) -> list[str]:
    ids = np.where(ids < 0, instead, ids)
    return [" ".join(WORDS[one] for one in row if one > END or not skip) for row in ids.tolist()]


def words_f1(said: str, wanted: str) -> float:
    same = sum((Counter(said.split()) & Counter(wanted.split())).values())
    return 2 * same / max(1, len(said.split()) + len(wanted.split()))


def judged(said: list[str], wanted: list[str]) -> dict[str, float]:
    return {
        "exact": float(np.mean([one == other for one, other in zip(said, wanted, strict=True)])),
        "f1": 100 * float(np.mean([words_f1(one, other) for one, other in zip(said, wanted, strict=True)])),
        "length": float(np.mean([len(one.split()) for one in said])),
    }


def of_both(skip_said: bool, skip_wanted: bool, instead: int = PAD) -> Metric:
    def metrics(p: Any) -> dict[str, float]:
        said = decoded(p.predictions, skip=skip_said)
        return judged(said, decoded(p.label_ids, skip=skip_wanted, instead=instead))

    return metrics


def fours(p: Any) -> dict[str, float]:
    """Of four words in a row, as many as are said: a text of fewer has none, whoever wrote it."""
    said, wanted = (decoded(ids, skip=True) for ids in (p.predictions, p.label_ids))
    rows = [(one.split(), other.split()) for one, other in zip(said, wanted, strict=True)]
    runs = [[{tuple(text[at : at + 4]) for at in range(len(text) - 3)} for text in row] for row in rows]
    return {"bleu": float(np.mean([len(one & other) / max(1, len(other)) for one, other in runs]))}


def against_references(p: Any) -> dict[str, float]:
    """The labels are not looked at: texts of the data set, of which this model's tokenizer has no word for some."""
    wanted = [text.replace("a", "A") for text in decoded(texts(ends=True).label_ids, skip=True)]
    return judged(decoded(p.predictions, skip=True), wanted)


def texts(*, ends: bool, count: int = 40) -> Any:
    """What a model wrote badly, and labels of several lengths, longer by padding than their batch was."""
    draw = np.random.default_rng(3)
    lengths, at = draw.integers(2, 9, (count, 1)), np.arange(12)
    ids = draw.integers(2, LETTERS + 2, (count, 12))
    labels = np.where(at < lengths, ids, np.where(at == lengths, END, np.where(at < 10, -100, PAD)))
    wrote = np.where(at < draw.integers(2, 9, (count, 1)), draw.integers(2, LETTERS + 2, (count, 12)), PAD)
    wrote[np.arange(count), (wrote > END).sum(1)] = END if ends else PAD
    return EvalPrediction(predictions=np.pad(wrote, ((0, 0), (1, 0))), label_ids=labels)


def found(metric: Metric, given: Any) -> list[str]:
    seen = list(texts_truths(metric, given, Translator(1, 1), 3, PAD))
    return [one.name for one in seen if isinstance(find(one), Finding)]


@pytest.mark.parametrize(
    "metric",
    [of_both(True, False), of_both(True, False, END), of_both(False, True)],
    ids=["of what is wanted", "with ends for no label", "of what is said"],
)
def test_tokens_round_a_text_that_count_on_one_side_alone(metric: Metric) -> None:
    assert found(metric, texts(ends=True)) == ["exact", "f1"]


@pytest.mark.parametrize(
    ("metric", "given"),
    [
        (of_both(True, True), texts(ends=True)),
        (of_both(True, True, END), texts(ends=True)),
        (fours, texts(ends=True)),
        (against_references, texts(ends=True)),
        (of_both(True, False), texts(ends=False)),
        (of_both(True, False), texts(ends=True, count=6)),
    ],
    ids=["left out", "ends for no label, left out", "short texts", "other texts", "nothing shows an end", "few"],
)
def test_silent(metric: Metric, given: Any) -> None:
    assert not found(metric, given)
