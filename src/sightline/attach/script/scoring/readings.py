"""The truth in the form in which predictions come, and in the forms of usual mistakes.

In which form predictions come is read off them: they meet the truth there far more often, or nearer, than in any other.
Where they do so in none, there is no reading.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sightline.attach.script.scoring.boxes import FORMATS, SWAPS
from sightline.attach.script.scoring.permuted import permuted
from sightline.attach.truth import APART, SIGMAS
from sightline.guard.evidence import IGNORE

VOID = 255  # what maps of classes have where nothing is marked
SURE = 20.0  # logit of the truth: rounding of float32 is all that its probability lacks
NEARLY = 1e-3  # probability of what is not true
NEARER = 0.7  # of the mean distance to the next form: noise of an untrained model is as far from all
LABELS, ROWS = 16, 8  # that are compared, at least
NO = -0.5  # the mean of what is said where nothing is: of numbers that learn 0 and 1 themselves it is about 0
JUST = 0.49  # a logit that says yes with 62 %, and less than a half
LEAST = 4  # texts that a normal form changes
AS_THEY_ARE, EARLIER, LATER = "as they are", "one place earlier", "one place later"
MARKS = re.compile(r"(\s*(<(?!/(?!s>))[^<>\s]{1,16}>|\[[A-Z]{1,8}\]))+\s*$")  # special tokens at a text's end
NEARLY_ALL = 0.9  # of the texts that are predicted end in them
LONG = 64  # labels in one row that may be a text's, of several put one behind the other


@dataclass(frozen=True)
class Other:
    """A mistaken form: what a metric that is perfect for it reads. `pred` and `target` as the metric would get them."""

    says: str
    pred: Any
    target: Any


@dataclass(frozen=True)
class Reading:
    """`truth`: the truth as predictions come. `share`: only a share of what is right may be judged by it.

    `opposite`: of yes or no in one column, what says the contrary everywhere: of one column the likeliest is the first.
    """

    truth: Any
    others: tuple[Other, ...]
    share: bool = False
    opposite: Tensor | None = None


def reading(pred: Any, target: Any) -> Reading | None:
    """Of tensors or lists of texts, row by row."""
    if isinstance(pred, list):
        return _texts(pred, target)
    if pred.is_floating_point() and not bool(pred.isfinite().all()):
        return None  # a model that gives NaN says nothing of how it is read
    whole, classes = _whole(pred), _whole(target)
    if pred.shape == target.shape:
        if classes and not whole and set(target.unique().tolist()) == {0, 1}:
            return _binary(pred, target)
        if whole and classes and target.dtype != torch.bool:
            return _ids(pred, target)
        return _places(pred.double(), target.double()) if not whole and not classes else None
    if pred.squeeze().shape == target.squeeze().shape:
        return _spread(pred, target, whole, classes)
    if not whole and classes and pred.dim() == target.dim() + 1:
        return _logits(pred, target)
    return None


def _spread(pred: Tensor, target: Tensor, whole: bool, classes: bool) -> Reading | None:
    """Of as many numbers in another shape: (N, 1) beside (N,) makes (N, N) where nobody looks."""
    aside, opposite = target.reshape(pred.shape), None
    if classes and not whole:
        yes, count = aside > aside.float().mean(), aside.numel()
        if count < LABELS or set(target.unique().tolist()) != {0, 1} or not yes.any() or yes.all():
            return None
        chances = bool((pred >= 0).all() and (pred <= 1).all())
        high, low = (1 - NEARLY, NEARLY) if chances else (SURE, -SURE)
        truth, opposite = (torch.where(yes, a, b).to(pred.dtype) for a, b in ((high, low), (low, high)))
        near = float(pred[yes].mean() - pred[~yes].mean()) > APART * float(pred.max() - pred.min())
    elif whole == classes:
        truth = aside.to(pred.dtype)
        far = [float((pred.double() - aside.double().roll(by, 0)).abs().mean()) for by in (0, 1, 2, 3)]
        near = far[0] < NEARER * min(far[1:])
    else:
        return None
    return (
        Reading(
            truth,
            (Other("predictions in the shape of targets", truth.reshape(target.shape), target),),
            opposite=opposite,
        )
        if near
        else None
    )


def _whole(values: Tensor) -> bool:
    if not values.is_floating_point():
        return not values.is_complex()
    return bool((values == values.round()).all()) and bool(values.abs().max() < 1 << 24)


# --- classes ---------------------------------------------------------------------------------------------------------


def _moved(target: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """Labels that stand so many places later in their row; and which of them come from within."""
    inside = torch.ones_like(target, dtype=torch.bool)
    inside.select(-1, 0 if places > 0 else -1).fill_(False)
    return target.roll(places, -1), inside


def _forms(target: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What classes may be taken for -> their values, and where there is any."""
    every = torch.ones_like(target, dtype=torch.bool)
    forms = {AS_THEY_ARE: (target, every), "less one": (target - 1, every), "plus one": (target + 1, every)}
    if target.shape[-1] >= (2 if target.dim() == 2 else LONG) and target.dim() <= 2:
        forms[EARLIER], forms[LATER] = _moved(target, -1), _moved(target, 1)
    return forms


def _ignored(target: Tensor, known: int) -> Tensor:
    """Where there is no label. `known`: classes there are, as far as predictions show."""
    ignored = target == IGNORE
    rest = target[(target != VOID) & ~ignored]
    return ignored | (target == VOID) if len(rest) and max(int(rest.max()) + 1, known) < VOID - 1 else ignored


def _ids(pred: Tensor, target: Tensor, classes: int | None = None) -> Reading | None:
    """Of classes. `classes`: how many there are, where that is known."""
    pred, target = pred.long(), target.long()
    ignored = _ignored(target, classes or int(pred.max()) + 1)
    if bool((pred[ignored] == target[ignored]).any()):
        ignored = torch.zeros_like(ignored)  # somebody has seen to them already
    forms = {name: (v, inside & ~_at(ignored, name)) for name, (v, inside) in _forms(target).items()}
    forms = {name: (values, there) for name, (values, there) in forms.items() if bool(there.any())}
    rates = {name: float((pred == values)[there].float().mean()) for name, (values, there) in forms.items()}
    first = max(rates, key=rates.__getitem__, default="")
    turned = permuted(pred, target) if target.dim() == 1 and not bool(ignored.any()) else None
    if turned is not None:
        return Reading(turned, (Other("labels in the order of the model's classes", turned, turned),))
    rest = [other for name, other in forms.items() if name != first]
    least = 0 if first == AS_THEY_ARE else LABELS
    if least and rates[first] < APART + max((rate for name, rate in rates.items() if name != first), default=0.0):
        return None  # a model that is not trained to the end may end too soon
    if int((~ignored).sum()) < LABELS or not all(_follows(pred, forms[first], other, least) for other in rest):
        return None
    values, there = forms[first]
    truth = torch.where(there, values, pred)
    if classes is not None and not bool(((truth >= 0) & (truth < classes)).all()):
        return None
    return Reading(truth, tuple(_other_labels(first, truth, target, ignored)))


def _follows(pred: Tensor, one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], least: int) -> bool:
    """Whether classes are those of one form and not of another: where these differ, as neighbours in a map seldom do.

    `least`: places where they must differ; 0: where they hardly do, it does not matter.
    """
    differ = (one[0] != other[0]) & one[1] & other[1]
    count, mine, theirs = int(differ.sum()), (pred == one[0])[differ], (pred == other[0])[differ]
    if count < LABELS:
        return count >= least
    apart = float(mine.float().mean() - theirs.float().mean())
    return apart >= max(APART, SIGMAS * (0.5 / count) ** 0.5)


def _at(ignored: Tensor, name: str) -> Tensor:
    """Where a form has no label."""
    places = {EARLIER: -1, LATER: 1}.get(name, 0)
    return _moved(ignored, places)[0] if places else ignored


def _other_labels(form: str, truth: Tensor, target: Tensor, ignored: Tensor) -> Iterator[Other]:
    """What a metric may want of labels, so that what is said of them as predictions come is right."""
    for name, (values, inside) in _forms(target).items():
        if name != AS_THEY_ARE:
            kept = torch.where(ignored, target, values) if name.endswith("one") else torch.where(inside, values, truth)
            yield Other(f"labels {name}", truth, kept)
    if bool(ignored.any()):
        back = {"less one": truth + 1, "plus one": truth - 1, EARLIER: truth.roll(1, -1), LATER: truth.roll(-1, -1)}
        yield Other("labels where there are none", truth, torch.where(ignored, back.get(form, truth), target))


def _logits(pred: Tensor, target: Tensor) -> Reading | None:
    """Of logits or probabilities of classes, in whichever dimension the labels do not have."""
    fits = [d for d in range(1, pred.dim()) if pred.shape[:d] + pred.shape[d + 1 :] == target.shape]
    for dim in sorted(fits, key=lambda d: d != pred.dim() - 1):
        classes = pred.shape[dim]
        found = _ids(pred.argmax(dim), target, classes) if classes > 1 else None
        if found is None:
            continue
        chances = bool((pred >= 0).all()) and bool(((pred.double().sum(dim) - 1).abs() < NEARLY).all())
        high, low = (1 - NEARLY, NEARLY / (classes - 1)) if chances else (SURE, -SURE)
        said = torch.full_like(pred, low).scatter(dim, found.truth.unsqueeze(dim), high)
        others = [Other(o.says, said, o.target) for o in found.others]
        least = torch.full_like(pred, high).scatter(dim, found.truth.unsqueeze(dim), low)
        others.append(Other("the least likely classes for the likeliest", least, target))
        return Reading(said, (*others, *_turned(pred, target, dim, high, low)))
    return None


def _turned(pred: Tensor, target: Tensor, dim: int, high: float, low: float) -> Iterator[Other]:
    """Classes in another dimension than they are, where labels (or the first of them) fit that."""
    for other in range(1, pred.dim()):
        shape = (*pred.shape[:other], *pred.shape[other + 1 :])
        if other == dim or any(mine > there for mine, there in zip(shape, target.shape, strict=True)):
            continue
        labels = target[tuple(slice(size) for size in shape)].long()
        if int(labels.min()) >= 0 and int(labels.max()) < pred.shape[other]:
            said = torch.full_like(pred, low).scatter(other, labels.unsqueeze(other), high)
            yield Other(f"classes in dimension {other}, which are in dimension {dim}", said, target)


def _binary(pred: Tensor, target: Tensor) -> Reading | None:
    """Of one number for yes or no, where they are probabilities, or cannot be any."""
    yes = target.bool()
    count, low, high = yes.numel(), float(pred.min()), float(pred.max())
    if count >= LABELS and float(pred[~yes].mean()) < NO and float(pred[yes].mean()) > float(pred[~yes].mean()) - NO:
        hesitant = torch.where(yes, JUST, -JUST).to(pred.dtype)
        half = torch.where(yes, 1 - JUST, JUST).to(pred.dtype)
        return Reading(hesitant, (Other("probabilities, while predictions are logits", half, target),), share=True)
    if count < LABELS or low < 0 or high > 1 or low > 0.1 or high < 0.9:
        return None
    if float(pred[yes].mean()) - float(pred[~yes].mean()) < APART:
        return None
    chances = torch.where(yes, 1 - NEARLY, NEARLY).to(pred.dtype)
    logits = torch.where(yes, SURE, -SURE).to(pred.dtype)
    return Reading(chances, (Other("logits, while predictions are probabilities", logits, target),), share=True)


# --- places ----------------------------------------------------------------------------------------------------------


def _places(pred: Tensor, target: Tensor) -> Reading | None:
    """Of boxes and points, four or two numbers each."""
    forms = {2: SWAPS, 4: {**FORMATS, **SWAPS}}.get(target.shape[-1], {})
    if target.dim() < 2 or not forms or target.numel() // target.shape[-1] < ROWS:
        return None
    values = {"": target, **{name: form(target) for name, form in forms.items()}}
    far = {name: float((pred - value).abs().mean()) for name, value in values.items()}
    first, second = sorted(far, key=far.__getitem__)[:2]
    if not far[first] < NEARER * far[second]:
        return None
    truth = values[first]
    others = [Other(f"targets {name}", truth, v) for name, v in values.items() if name]
    others += [Other(f"predictions {name or 'like targets'}", v, target) for name, v in values.items() if name != first]
    return Reading(truth, tuple(others))


# --- texts -----------------------------------------------------------------------------------------------------------

NORMAL: dict[str, Callable[[str], str]] = {
    "stripped": str.strip,
    "in lower case": str.lower,
    "stripped and in lower case": lambda text: text.strip().lower(),
    "with single spaces": lambda text: " ".join(text.split()),
    "in lower case with single spaces": lambda text: " ".join(text.lower().split()),
    "without punctuation": lambda text: " ".join(_bare(text).split()),
    "in lower case without punctuation": lambda text: " ".join(_bare(text.lower()).split()),
    "in lower case without punctuation and articles": lambda text: " ".join(
        re.sub(r"\b(a|an|the)\b", " ", _bare(text.lower())).split()
    ),
}


def _bare(text: str) -> str:
    return "".join(c for c in text if c not in string.punctuation)


def _texts(pred: Sequence[str], target: Sequence[str]) -> Reading | None:
    if len(target) < ROWS or len(pred) != len(target) or sum(map(bool, pred)) < ROWS:
        return None
    if (turned := permuted(pred, target)) is not None:
        return Reading(turned, (Other("names in the order of the model's classes", turned, turned),))
    others = []
    for name, normal in NORMAL.items():
        texts = [normal(text) for text in target]
        if sum(a != b for a, b in zip(texts, target, strict=True)) >= LEAST and all(texts):
            others.append(Other(f"targets {name}", list(target), texts))
    ends = [MARKS.search(text) for text in pred]
    if sum(map(bool, ends)) >= NEARLY_ALL * len(pred) and not any(map(MARKS.search, target)):
        said = [text + (end.group() if end else "") for text, end in zip(target, ends, strict=True)]
        bare = Other("predictions without the special tokens at their end", list(target), list(target))
        return Reading(said, (bare, *others))
    return Reading(list(target), tuple(others))


def normalised(read: Reading, target: Sequence[str], makes: Mapping[str, Callable[[str], Any]]) -> Iterator[Other]:
    """Targets as functions of the script's own make them of texts, by what these are called."""
    for name, make in makes.items():
        with suppress(Exception):  # it takes something else than texts
            texts = [make(text) for text in target]
            fit = all(isinstance(one, str) and one for one in texts)
            if fit and sum(a != b for a, b in zip(texts, target, strict=True)) >= LEAST:
                yield Other(f"targets as {name} makes them", read.truth, texts)
