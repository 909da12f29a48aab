"""Asks a Trainer's own metrics what they think of the ground truth, in the form of the predictions they were given.

Only where the truth can be put into that form without doubt: classes of samples or of tokens, as logits or as ids,
yes-or-no answers, and numbers. The function that computes the metrics is called a few times more, at the end of the
Trainer's method, in silence and with the random state put back, and lists of results; one that keeps other records of
its calls is left alone.
"""

from __future__ import annotations

import contextlib
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.records import keeps_records, put_back
from sightline.attach.units import OneSided, one_sided
from sightline.guard.evidence import IGNORE, OracleSeen
from sightline.guard.probes.restore import untouched

ROWS = 256  # samples given to the metrics
SURE = 10.0  # logit of the truth: a probability of 1 within float32's rounding of most losses
SHIFTS = (1, 2, 3)  # rows by which predictions are moved on, to spoil them
FEW = 1000  # classes: more are a vocabulary, of which an evaluation never shows all
CLOSE = 1e-3  # to 1: rounding, as in the check
SAME = 1e-6  # rounding of a share
SECONDS = 1.0  # that questions in search of another unit may take
APART, SIGMAS = 0.2, 5.0  # of the labels that predictions meet in one place and not in the other; and not by chance


class Kept:
    """What a Trainer gave its metrics last, seen from between the two."""

    def __init__(self, compute: Callable[[Any], Any], *, written: bool) -> None:
        self.compute, self.written = compute, written  # predictions are texts that the model wrote
        self.given: Any = None

    def __call__(self, given: Any) -> Any:
        self.given = given
        return self.compute(given)


@contextlib.contextmanager
def kept(trainer: Any) -> Iterator[Kept | None]:
    """Inside, the Trainer's metrics are computed as ever, and what they are given is kept; None where that is vain."""
    compute = trainer.compute_metrics
    args = trainer.args
    whole, written = not getattr(args, "batch_eval_metrics", False), bool(getattr(args, "predict_with_generate", False))
    if compute is None or isinstance(compute, Kept) or not whole or not (written or not keeps_records(compute)):
        yield None
        return
    trainer.compute_metrics = between = Kept(compute, written=written)
    try:
        yield between
    finally:
        if trainer.compute_metrics is between:
            trainer.compute_metrics = compute


def truths(compute: Callable[[Any], Any], given: Any, model: nn.Module, step: int) -> Iterator[OracleSeen]:
    """The score of the truth under each metric, beside those of predictions that belong to other samples.

    Of texts whose place the predictions themselves show, a metric that looks in the other place is told as such.
    """
    import numpy as np

    if (spans := spans_of(given)) is not None:
        yield from _of_spans(compute, given, model, step, *spans)
        return
    first = given.predictions[0] if isinstance(given.predictions, tuple) else given.predictions
    if not isinstance(first, np.ndarray) or not isinstance(given.label_ids, np.ndarray) or len(first) < 2:
        return
    labels = given.label_ids[:ROWS]
    if labels.dtype.kind == first.dtype.kind == "f" and not np.isin(labels, (0, 1)).all():
        yield from _of_numbers(compute, given, model, step, first[:ROWS], labels)
        return
    if first.shape == (len(given.label_ids), 1) and labels.ndim == 1 and first.dtype.kind == "f":
        yield from _of_one_column(compute, given, model, step, labels)
        return
    scored: list[dict[str, OracleSeen]] = []
    outputs = getattr(getattr(model, "config", None), "num_labels", None)  # 2 where nobody said
    if first.ndim > 1 or (outputs is not None and max(first.max(), given.label_ids.max()) >= outputs):
        outputs = None
    for truth in _as_predictions(first[:ROWS], labels, outputs):
        sets = [truth, *(np.roll(truth, shift, axis=0) for shift in SHIFTS)]
        told = told_of(compute, model, [like(given, one, labels) for one in sets])
        spoilt = {name: tuple(other[name] for other in told[1:] if name in other) for name in told[0]}
        scored.append({n: OracleSeen(step, n, score, spoilt[n]) for n, score in told[0].items() if spoilt[n]})
    place = _place(first[:ROWS], labels) if len(scored) > 1 else None
    some = first.ndim > labels.ndim and not _all_there(labels, first.shape[-1])
    for name in dict.fromkeys(name for one in scored for name in one):
        found = [one[name] for one in scored if name in one]
        if place is not None and len(found) > 1 and _whole(found[1 - place]) and not _whole(found[place]):
            yield replace(found[place], perfect=1.0)
        elif not some:
            yield max(found, key=lambda one: one.truth)


def spans_of(given: Any) -> tuple[Any, Any] | None:
    """(scores, places): (2, N, L) of where an answer begins and ends, and (2, N) of where it does; None for others."""
    import numpy as np

    scores, places = given.predictions, given.label_ids
    if not isinstance(scores, tuple) or not isinstance(places, tuple) or not len(scores) == len(places) == 2:
        return None
    if not all(isinstance(one, np.ndarray) for one in (*scores, *places)) or scores[0].shape != scores[1].shape:
        return None
    places = np.stack(places)
    fits = scores[0].ndim == 2 and scores[0].dtype.kind == "f" and places.shape == (2, len(scores[0]))
    if not fits or places.dtype.kind not in "iu" or len(scores[0]) < 2:
        return None
    inside = (places >= 0).all() and (places < scores[0].shape[1]).all() and (places[0] <= places[1]).all()
    return (np.stack(scores), places) if inside else None


def _of_spans(
    compute: Callable[[Any], Any], given: Any, model: nn.Module, step: int, scores: Any, places: Any
) -> Iterator[OracleSeen]:
    """The same of answers that are spans of a text, the shorter half of them: metrics may leave out long ones."""
    import numpy as np

    lengths = places[1] - places[0]
    rows = (lengths <= np.median(lengths)).nonzero()[0][:ROWS]
    places = places[:, rows]
    sure = np.full((2, len(rows), scores.shape[2]), -SURE, dtype=scores.dtype)
    np.put_along_axis(sure, places[..., None], SURE, axis=2)
    sets = [sure, *(np.roll(sure, shift, axis=1) for shift in SHIFTS)]
    kind = type(given)
    told = told_of(
        compute, model, [kind(predictions=tuple(one.copy()), label_ids=tuple(places.copy())) for one in sets]
    )
    for name, score in told[0].items():
        if spoilt := tuple(other[name] for other in told[1:] if name in other):
            yield OracleSeen(step, name, score, spoilt)


def _of_one_column(
    compute: Callable[[Any], Any], given: Any, model: nn.Module, step: int, labels: Any
) -> Iterator[OracleSeen]:
    """Of yes or no in one number: metrics that say the same whatever is predicted, and find no yes in anything.

    They take the likeliest of one column, which is the first.
    """
    import numpy as np

    if set(labels.tolist()) != {0, 1}:
        return
    first = given.predictions[0] if isinstance(given.predictions, tuple) else given.predictions
    sure = ((2 * labels - 1) * SURE).astype(first.dtype)[:, None]
    told = told_of(
        compute,
        model,
        [like(given, one, labels) for one in (sure, *(np.roll(sure, by, axis=0) for by in SHIFTS), -sure)],
    )
    no = 1 - float(labels.mean())
    for name, score in told[0].items() if all(other == told[0] for other in told) else ():
        if abs(score - no) <= SAME:
            yield OracleSeen(step, name, score, tuple(other[name] for other in told[1:]), perfect=1.0)


def _of_numbers(
    compute: Callable[[Any], Any], given: Any, model: nn.Module, step: int, first: Any, labels: Any
) -> Iterator[OracleSeen]:
    """Of numbers that are predicted: metrics that bring them into another unit without the labels, or these alone."""
    until = time.monotonic() + SECONDS

    def score(these: Tensor, those: Tensor) -> dict[str, float]:
        if time.monotonic() > until:
            raise TimeoutError
        return _numbers(compute(like(given, these.numpy(), those.numpy())))

    found: dict[str, OneSided] = {}
    with _asking(compute, model):
        found = one_sided(torch.from_numpy(first.copy()), torch.from_numpy(labels.copy()), score)
    for name, one in found.items():
        if step or not one.early:
            yield OracleSeen(step, name, one.truth, one.spoilt, perfect=one.perfect, reads=one.says)


def _whole(seen: OracleSeen) -> bool:
    return seen.truth >= 1 - CLOSE


def _place(predictions: Any, labels: Any) -> int | None:
    """0: predictions stand where their labels do; 1: a place earlier; None where they agree with neither well enough.

    A causal model says at each token what the next one is; what it says then fits the labels one place on.
    """
    guess = predictions.argmax(-1) if predictions.ndim > labels.ndim else predictions
    pairs = ((guess, labels), (guess[:, :-1], labels[:, 1:]))
    rates = [float((mine == theirs)[theirs >= 0].mean()) if (theirs >= 0).any() else 0.0 for mine, theirs in pairs]
    count = int((labels[:, 1:] >= 0).sum())
    apart = max(APART, SIGMAS * (0.5 / max(1, count)) ** 0.5)  # of two shares, each with a variance of 1/4n at most
    return int(rates[1] > rates[0]) if abs(rates[1] - rates[0]) > apart else None


def _as_predictions(logits: Any, labels: Any, outputs: int | None) -> Iterator[Any]:
    """The truth in the form of `logits`. For texts twice: in its place, and a place earlier, as it is predicted.

    `outputs`: the model's classes, of which `logits` may be the chosen ones (`preprocess_logits_for_metrics`).
    """
    import numpy as np

    if labels.dtype.kind == "f":
        if labels.shape == logits.shape and labels.ndim == 2 and np.isin(labels, (0, 1)).all():
            yield ((2 * labels - 1) * SURE).astype(logits.dtype)
        return
    real = np.where(labels < 0, 0, labels)
    if logits.shape == labels.shape and logits.dtype.kind in "iu" and labels.ndim == 2:
        yield real.astype(logits.dtype)
        yield np.roll(real, -1, axis=1).astype(logits.dtype)
    elif logits.shape == labels.shape and logits.dtype.kind in "iu" and labels.ndim == 1:
        if outputs is not None and outputs > 1 and logits.min() >= 0 and _all_there(labels, outputs):
            yield real.astype(logits.dtype)
    elif logits.dtype.kind == "f" and logits.shape[:-1] == labels.shape and _are_classes(logits, labels):
        sure = (np.eye(logits.shape[-1], dtype=logits.dtype)[real] * SURE) * (labels != IGNORE)[..., None]
        yield sure
        if labels.ndim == 2:
            yield np.roll(sure, -1, axis=1)


def _are_classes(logits: Any, labels: Any) -> bool:
    """Whether labels are classes of `logits`, all of which are shown; or some of a text's, said a place earlier."""
    if _all_there(labels, logits.shape[-1]):
        return True
    return labels.ndim == 2 and labels.max() < logits.shape[-1] and _place(logits, labels) == 1


def _all_there(labels: Any, classes: int) -> bool:
    """Whether each class is among the labels: a mean over classes would count one that is absent as never found."""
    shown = {int(label) for label in set(labels.ravel().tolist()) if label >= 0}
    return bool(shown) and max(shown) < classes and (classes > FEW or len(shown) == classes)


def told_of(compute: Callable[[Any], Any], model: nn.Module, sets: list[Any]) -> list[dict[str, float]]:
    """The metrics of each of `sets`, in silence; of none where the Trainer's author made them for other input."""
    told: list[dict[str, float]] = []
    with _asking(compute, model):
        told += [_numbers(compute(one)) for one in sets]
    return told if len(told) == len(sets) else [{} for _ in sets]


@contextlib.contextmanager
def _asking(compute: Callable[[Any], Any], model: nn.Module) -> Iterator[None]:
    """Inside, metrics are computed in silence and leave nothing behind; it ends where they fail."""
    import numpy as np

    mute = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with (
        untouched(model),
        put_back(compute),
        mute[0],
        mute[1],
        contextlib.suppress(Exception),
        np.errstate(all="ignore"),
    ):
        yield


def like(given: Any, predictions: Any, labels: Any) -> Any:
    """A fresh copy of what the metrics were given, with other predictions: what else there was of the same samples."""
    import numpy as np

    count = len(given.label_ids)

    def of_rows(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return type(value)(of_rows(one) for one in value)
        each = isinstance(value, np.ndarray) and value.ndim and len(value) == count
        return value[: len(labels)].copy() if each else value

    several = isinstance(given.predictions, tuple)
    others = tuple(of_rows(one) for one in given.predictions[1:]) if several else ()
    rest = {name: of_rows(getattr(given, name, None)) for name in ("inputs", "losses")}
    told = (predictions.copy(), *others) if several else predictions.copy()
    return type(given)(predictions=told, label_ids=labels.copy(), **rest)


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    numbers = {str(n): float(v) for n, v in values.items() if not isinstance(v, bool) and isinstance(v, Real)}
    return {name: value for name, value in numbers.items() if math.isfinite(value)}
