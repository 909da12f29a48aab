"""Metrics of a Trainer that are given the truth: which of them fall short of it, and which are left alone."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn
from transformers import EvalPrediction

from sightline.attach.records import keeps_records
from sightline.attach.truth import truths
from sightline.attach.truth_of_texts import texts_truths, written
from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.evaluation.metric_fails_oracle import find

RNG = np.random.default_rng(0)
Metric = Callable[[Any], dict[str, float]]
TAGS = np.where(RNG.random((32, 12)) < 0.3, -100, RNG.integers(0, 3, (32, 12)))
CLASSES = RNG.integers(0, 4, 32)
TOKENS = np.where(RNG.random((32, 12)) < 0.3, -100, RNG.integers(0, 2000, (32, 12)))
SEVERAL = RNG.integers(0, 2, (32, 5)).astype("float32")


def found(metric: Metric, labels: Any, predictions: Any) -> list[str]:
    given = EvalPrediction(predictions=predictions, label_ids=labels)
    return [seen.name for seen in truths(metric, given, nn.Linear(1, 1), 3) if isinstance(find(seen), Finding)]


def logits(*shape: int) -> Any:
    return RNG.normal(size=shape).astype("float32")


def everywhere(p: Any) -> dict[str, float]:
    return {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())}


def where_labelled(p: Any) -> dict[str, float]:
    keep = p.label_ids != -100
    return {"accuracy": float((p.predictions.argmax(-1) == p.label_ids)[keep].mean())}


def shifted(p: Any) -> dict[str, float]:
    guess, labels = p.predictions.argmax(-1)[:, :-1], p.label_ids[:, 1:]
    return {"accuracy": float((guess == labels)[labels != -100].mean())}


def ids_in_place(p: Any) -> dict[str, float]:
    return {"accuracy": float((p.predictions == p.label_ids)[p.label_ids != -100].mean())}


def first_of_several(p: Any) -> dict[str, float]:
    return {"accuracy": float((p.predictions[0].argmax(-1) == p.label_ids).mean())}


def folded(p: Any) -> dict[str, float]:
    return {"accuracy": float((p.predictions.argmax(-1) % 3 == p.label_ids).mean())}


def macro_f1(p: Any) -> dict[str, float]:
    guess, scores = p.predictions.argmax(-1), []
    for label in range(4):
        right = ((guess == label) & (p.label_ids == label)).sum()
        scores.append(2 * right / max(1, (guess == label).sum() + (p.label_ids == label).sum()))
    return {"f1": float(np.mean(scores))}


def others(p: Any) -> dict[str, float]:
    """An error, a size, a confidence, and what is no number."""
    odds = np.exp(p.predictions - p.predictions.max(-1, keepdims=True))
    shares = odds / odds.sum(-1, keepdims=True)
    wrong = float((p.predictions.argmax(-1) != p.label_ids).mean())
    confidence = float(shares.max(-1).mean())
    return {"error": wrong, "n": len(p.label_ids), "confidence": confidence, "flag": True, "nan": float("nan")}


def at_half(p: Any) -> dict[str, float]:
    return {"exact": float(((p.predictions > 0) == (p.label_ids > 0.5)).all(-1).mean())}


@pytest.mark.parametrize(
    ("metric", "labels", "predictions"),
    [
        (everywhere, TAGS, logits(32, 12, 3)),
        (first_of_several, TAGS, (logits(32, 12, 3), logits(2))),
        (folded, CLASSES, logits(32, 4)),
    ],
    ids=["ignored tags", "ignored tags, tuple", "a class lost"],
)
def test_metrics_that_the_truth_fails(metric: Metric, labels: Any, predictions: Any) -> None:
    assert found(metric, labels, predictions) == ["accuracy"]


@pytest.mark.parametrize(
    ("metric", "labels", "predictions"),
    [
        (where_labelled, TAGS, logits(32, 12, 3)),
        (where_labelled, TOKENS, logits(32, 12, 2000)),
        (shifted, TOKENS, logits(32, 12, 2000)),
        (ids_in_place, TOKENS, RNG.integers(0, 2000, (32, 12))),
        (macro_f1, CLASSES, logits(32, 4)),
        (macro_f1, CLASSES % 2, logits(32, 4)),
        (others, CLASSES, logits(32, 4)),
        (at_half, SEVERAL, logits(32, 5)),
    ],
    ids=["tags", "tokens", "next tokens", "ids", "macro", "macro without some classes", "no scores", "several classes"],
)
def test_metrics_that_are_right_or_cannot_be_asked(metric: Metric, labels: Any, predictions: Any) -> None:
    assert not found(metric, labels, predictions)


def test_functions_that_remember_more_than_values_are_left_alone() -> None:
    seen: list[list[float]] = [[]]

    def remembers(p: Any) -> dict[str, float]:
        seen[0].append(1.0)
        return {}

    names = {0: ["a"]}

    def looks_up(p: Any) -> dict[str, float]:
        return {names[0][0]: 1.0}

    assert keeps_records(remembers) and keeps_records(remembers.__call__)
    assert not keeps_records(looks_up) and not keeps_records(everywhere) and not keeps_records(macro_f1)


NAMES = ["O", "PERSON", "PLACE"]


@pytest.mark.parametrize(("keep", "told"), [(False, ["right"]), (True, [])])
def test_what_a_metric_writes_down_is_as_it_was(keep: bool, told: list[str]) -> None:
    best, history, seen = {"PERSON": 0.5}, [0.25], {"PLACE"}

    def each(p: Any) -> dict[str, float]:
        guess, labels = p.predictions.argmax(-1), p.label_ids
        if keep:
            guess, labels = guess[labels != -100], labels[labels != -100]
        out = {"right": float((guess == labels).mean())}
        for place, name in enumerate(NAMES):
            out[f"recall_{name}"] = float((guess == place)[labels == place].mean())
            best[name] = max(best.get(name, 0.0), out[f"recall_{name}"])
            history.append(out[f"recall_{name}"])
            seen.add(name)
        return out

    assert found(each, TAGS, logits(32, 12, 3)) == told
    assert (best, history, seen) == ({"PERSON": 0.5}, [0.25], {"PLACE"})


def nearly(labels: Any, places: int, right: float) -> Any:
    """Predictions of a trained model: of the labels so many places on, this share."""
    known = np.where(labels < 0, 7, labels)
    return np.where(
        RNG.random(labels.shape) < right, np.roll(known, -places, axis=1), RNG.integers(0, 2000, labels.shape)
    )


def test_the_place_of_what_a_causal_model_says() -> None:
    """It is the next label; only predictions that show so much make a metric in the wrong place one."""
    said, tagged = nearly(TOKENS, 1, 0.8), nearly(TOKENS, 0, 0.8)
    assert found(ids_in_place, TOKENS, said) == ["accuracy"]
    assert not found(ids_in_place, TOKENS, tagged) and not found(ids_in_place, TOKENS, nearly(TOKENS, 1, 0.05))

    def one_place_on(p: Any) -> dict[str, float]:
        guess, labels = p.predictions[:, :-1], p.label_ids[:, 1:]
        return {"accuracy": float((guess == labels)[labels != -100].mean()), "size": float(labels.size)}

    assert not found(one_place_on, TOKENS, said) and found(one_place_on, TOKENS, tagged) == ["accuracy"]


def test_a_small_vocabulary_of_which_some_are_never_shown() -> None:
    """Its metric may stand in the wrong place; what it says of classes that are absent proves nothing."""
    words = np.where(TOKENS < 0, -100, TOKENS % 40 + 3)

    def of_all(p: Any) -> dict[str, float]:
        guess, labels = p.predictions.argmax(-1)[:, :-1], p.label_ids[:, 1:]
        known = range(p.predictions.shape[-1])
        return {"recall": float(np.mean([((guess == c) & (labels == c)).sum() / 14 for c in known]))}

    said = np.eye(48, dtype="float32")[np.clip(nearly(words, 1, 0.8) % 48, 0, 47)]
    assert found(where_labelled, words, said) == ["accuracy"]
    assert not found(shifted, words, said) and not found(of_all, words, said)
    tagged = np.eye(48, dtype="float32")[np.clip(nearly(words, 0, 0.8) % 48, 0, 47)]
    assert not found(where_labelled, words, tagged) and not found(of_all, words, tagged)


def wrote(lengths: list[int], limit: int, *, ends: bool) -> Any:
    """Texts of an encoder-decoder, from its start token on, of these lengths; `ends`: each in EOS (1)."""
    texts = np.zeros((len(lengths), limit + 1), dtype=np.int64)
    for row, length in zip(texts, lengths, strict=True):
        row[1 : length + 1] = 7
        if ends:
            row[length] = 1
    return texts


def asked(low: int, high: int, count: int = 12) -> Any:
    lengths = RNG.integers(low, high, (count, 1))
    return np.where(np.arange(40) < lengths, 7, -100)


class Writer(nn.Linear):
    """What a model of transformers says of itself."""

    config = SimpleNamespace(is_encoder_decoder=True)
    generation_config = SimpleNamespace(eos_token_id=1, pad_token_id=0, decoder_start_token_id=0)


@pytest.mark.parametrize(
    ("texts", "labels", "cut"),
    [
        (wrote([19] * 12, 19, ends=False), asked(25, 34), True),
        (wrote([19] * 12, 19, ends=False), asked(5, 19), False),
        (wrote([19] * 12, 19, ends=True), asked(25, 34), False),
        (wrote([4, 9, 12] * 4, 19, ends=True), asked(25, 34), False),
        (wrote([19] * 12, 19, ends=False), np.concatenate([asked(5, 15, 9), asked(25, 34, 3)]), False),
        (wrote([19] * 6 + [8] * 6, 19, ends=False), asked(25, 34), False),
    ],
    ids=["cut", "rambles, and all would fit", "ends just there", "says little", "few are long", "stops by itself"],
)
def test_texts_that_are_cut_before_what_is_wanted(texts: Any, labels: Any, cut: bool) -> None:
    seen = written(EvalPrediction(predictions=texts, label_ids=labels), Writer(1, 1), 5)
    assert seen is not None and isinstance(find(generated=seen), Finding if cut else CannotTell)


def test_texts_of_a_decoder_begin_with_their_prompt_and_are_left_alone() -> None:
    assert (
        written(EvalPrediction(predictions=wrote([9] * 4, 9, ends=False), label_ids=asked(9, 20, 4)), Plain(), 1)
        is None
    )


class Plain(nn.Module):
    config = SimpleNamespace(is_encoder_decoder=False)
    generation_config = SimpleNamespace(eos_token_id=1)


START, END, PAD, LETTERS = 30, 31, 32, 30


def dates(*, given_pads: bool = False) -> tuple[Any, Any]:
    """What a model wrote badly from its start token on, and labels of several lengths, each with its end of text."""
    draw = np.random.default_rng(5)
    lengths = draw.integers(3, 10, (40, 1))
    at, ids = np.arange(11), draw.integers(0, LETTERS, (40, 11))
    labels = np.where(at < lengths, ids, np.where(at == lengths, END, PAD if given_pads else -100))
    texts = np.concatenate([np.full((40, 1), START), draw.integers(0, LETTERS, (40, 14))], axis=1)
    return texts, labels


class Translator(nn.Linear):
    config = SimpleNamespace(is_encoder_decoder=True)
    generation_config = SimpleNamespace(eos_token_id=END, pad_token_id=PAD, decoder_start_token_id=START)


def decoded(ids: Any) -> list[tuple[int, ...]]:
    return [tuple(one for one in row if one < START) for row in ids.tolist()]


def texts_judged(metric: Metric, labels: Any, texts: Any, **more: Any) -> tuple[list[str], list[str]]:
    """The metrics that M3 finds, and those of which it is told."""
    given = EvalPrediction(predictions=texts, label_ids=labels, **more)
    seen = list(texts_truths(metric, given, Translator(1, 1), 3, PAD))
    return [one.name for one in seen if isinstance(find(one), Finding)], [one.name for one in seen]


def exact(instead: int) -> Metric:
    def of_texts(p: Any) -> dict[str, float]:
        said, wanted = (decoded(np.where(ids == -100, instead, ids)) for ids in (p.predictions, p.label_ids))
        right = np.array([one == other for one, other in zip(said, wanted, strict=True)])
        wrong = [set(one) ^ set(other) for one, other in zip(said, wanted, strict=True)]
        return {
            "exact": float(right.mean()),
            "percent": 100.0 * right.mean(),
            "errors": float(np.mean([*map(len, wrong)])),
        }

    return of_texts


def test_ids_that_take_the_place_of_no_label_before_they_are_decoded() -> None:
    texts, labels = dates()
    names = ["exact", "percent", "errors"]
    assert texts_judged(exact(0), labels, texts) == (names, names)
    assert texts_judged(exact(PAD), labels, texts) == ([], names)
    assert texts_judged(exact(0), dates(given_pads=True)[1], texts) == ([], [])
    longer = np.pad(labels, ((0, 0), (0, 4)), constant_values=PAD)  # as Seq2SeqTrainer hands them on
    assert texts_judged(exact(0), longer, texts) == (names, names)
    assert texts_judged(exact(PAD), longer, texts) == ([], names)


def by_design(p: Any) -> dict[str, float]:
    """Of texts alone, of labels alone, of the inputs, and a likeness that is never 1."""
    assert p.inputs is None or len(p.inputs) == len(p.predictions)
    labels = np.where(p.label_ids == -100, PAD, p.label_ids)
    said, wanted = decoded(p.predictions), decoded(labels)
    same = np.mean([one == other for one, other in zip(said, wanted, strict=True)])
    copied = 0.0 if p.inputs is None else float((p.inputs[:, :3] == labels[:, :3]).mean())
    return {
        "length": float(np.mean([*map(len, said)])),
        "diversity": len({one for row in said for one in row}) / sum(map(len, said)),
        "unlabelled": float((p.label_ids == -100).sum()),
        "labelled": float((p.label_ids != -100).mean()),
        "perplexity": float(np.exp(1.0 if p.losses is None else p.losses.mean())),
        "copied": copied,
        "meteor": 0.998 * float(same),
    }


def only_masked(p: Any) -> dict[str, float]:
    keep = p.label_ids != -100
    said = p.predictions[:, 1 : p.label_ids.shape[1] + 1]
    return {"tokens": float((said == p.label_ids)[keep].mean())}


def test_metrics_of_texts_that_say_less_than_1_of_the_truth_by_design() -> None:
    texts, labels = dates()
    more = {"inputs": np.roll(np.abs(labels), 1, axis=0), "losses": np.ones(40)}
    assert not texts_judged(by_design, labels, texts, **more)[0] and not texts_judged(by_design, labels, texts)[0]
    assert texts_judged(only_masked, labels, texts) == ([], ["tokens"])


class Classifier(nn.Linear):
    config = SimpleNamespace(num_labels=4)


@pytest.mark.parametrize(
    ("known", "classes", "model", "names"),
    [
        (3, 4, Classifier(1, 1), ["accuracy"]),
        (4, 4, Classifier(1, 1), []),
        (2, 3, Classifier(1, 1), []),
        (3, 4, nn.Linear(1, 1), []),
    ],
    ids=["a class lost", "right", "a class is absent", "nobody says how many classes"],
)
def test_classes_that_were_chosen_before_the_metrics(known: int, classes: int, model: nn.Module, names: Any) -> None:
    """`preprocess_logits_for_metrics` has taken the most likely one; the metrics see the inputs and the losses, too."""
    labels, inputs = CLASSES % classes, RNG.integers(0, 9, (32, 7))

    def chosen(p: Any) -> dict[str, float]:
        right = p.predictions % known == p.label_ids
        assert len(p.inputs) == len(p.losses) == len(p.predictions)
        return {"accuracy": float(right.mean()), "loss": float(p.losses.mean()), "size": float(p.inputs.size)}

    given = EvalPrediction(predictions=RNG.integers(0, 4, 32), label_ids=labels, inputs=inputs, losses=RNG.random(32))
    assert [seen.name for seen in truths(chosen, given, model, 3) if isinstance(find(seen), Finding)] == names
    made_for_more = EvalPrediction(predictions=RNG.integers(0, 4, 32), label_ids=labels)
    assert not list(truths(chosen, made_for_more, model, 3))


@pytest.mark.parametrize(("likeliest", "alarmed"), [(True, True), (False, False)])
def test_the_likeliest_of_one_column(likeliest: bool, alarmed: bool) -> None:
    """With one logit a sample argmax is 0 for all of them."""
    rng = np.random.default_rng(0)
    labels = (rng.random(40) < 0.4).astype(np.float32)
    given = EvalPrediction(predictions=rng.normal(size=(40, 1)).astype(np.float32), label_ids=labels)

    def compute(one: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(one.predictions)
        said = logits.argmax(-1) if likeliest else (logits[:, 0] > 0).astype(int)
        return {"accuracy": float((said == one.label_ids).mean()), "yes": float(np.mean(one.label_ids))}

    seen = [*truths(compute, given, nn.Linear(2, 1), 1)]
    assert [one.name for one in seen if isinstance(find(one), Finding)] == ["accuracy"] * alarmed
