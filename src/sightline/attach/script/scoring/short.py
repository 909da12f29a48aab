"""Why does the truth itself fall short of the whole, where no mistaken form of it explains that? What it is divided by.

Three laws tell, each from what the metric gives for truths and predictions that are made for it: a sum of hits that is
divided by more places than are judged; a mean over classes in which those that are not there count as 0; an overlap
whose factor was left out, which is the same part of the whole whatever the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from math import isclose

import torch
from torch import Tensor

from sightline.attach.script.scoring.verdict import SHORT, Verdict, moved

FILLED = "right answers where the loss has no label, too"
WIDER, ABSENT, PART = "as many right answers as there are places", "a truth that has every class", ""
SCALES = {1: 1e-3, 100: 1.5}  # what is the whole, and the least that may be a share of it
PARTS = (2, 3)  # an overlap beside the sum of both; beside both and itself
ROUGH = 0.01  # of a part: what is added against a division by 0
PADDING = 0.05  # of all places, that have the class which the loss leaves out
FEW = 6  # classes of which one place each is made wrong
MOST = 1000  # classes
PLACES = 1 << 17  # beyond, one hit is lost in what float32 rounds off
ROUNDED, NEARLY = 3e-7, 1e-3  # of the whole, in float32; relative, with the 1e-6 that ratios add

Score = Callable[[Tensor, Tensor], Mapping[str, float]]
Found = dict[tuple[str, str], Verdict]


def short(truth: Tensor, target: Tensor, score: Score, pad: int | None = None) -> Found:
    """By (name of the number, law): the verdict. `truth`: the target in the form of predictions.

    `pad`: the class that the loss leaves out: what is said where it stands is to count neither as right nor as wrong.
    """
    if target.is_floating_point() and not bool((target == target.round()).all()):
        return {}
    said = Said(truth, target)
    if not said.fits:
        return {}
    whole = score(truth, target)
    under = {name: scale for name, v in whole.items() if (scale := _scale(v))}
    if not under:
        return _padded(said, score, whole, pad) if pad is not None and pad in said.classes else {}
    worse = [score(moved(truth, by), target) for by in (1, 2)]
    found: Found = {}
    for law, holds in ((WIDER, _wider), (ABSENT, _absent), (PART, _part)):
        for name, scale in under.items():
            spoilt = tuple(one.get(name, whole[name]) for one in worse)
            if min(spoilt) < whole[name] >= max(spoilt) and name not in {known for known, _ in found}:
                shares = _Shares(said, score, name, scale, whole[name] / scale)
                if holds(shares):
                    found[name, law] = Verdict(name, whole[name], spoilt, float(scale), law)
    return found


def _scale(value: float) -> int:
    """Of what a number would be the whole, if it is a share of it that is short; 0: it is none."""
    return next((scale for scale, least in SCALES.items() if least < value < scale * (1 - SHORT)), 0)


class Said:
    """Makes predictions of labels, place by place, of what the truth in the form of predictions says elsewhere."""

    def __init__(self, truth: Tensor, target: Tensor) -> None:
        self.target, labels = target, target.long().reshape(-1)
        ways = (d for d in range(1, truth.dim()) if truth.shape[:d] + truth.shape[d + 1 :] == target.shape)
        self._dim = next(ways, None)
        self.classes = labels[labels >= 0].unique().tolist()
        self.fits = 1 < len(self.classes) <= MOST and (self._dim is not None or truth.numel() == target.numel())
        if self.fits:
            self._whole = truth if self._dim is None else truth.movedim(self._dim, -1)
            self._flat = self._whole.reshape(target.numel(), -1)
            self.places = {one: (labels == one).nonzero()[:, 0] for one in self.classes}
            every = ((self._flat[at] == self._flat[at[0]]).all() for at in self.places.values())
            self.fits = all(map(bool, every))  # else places stand for others, or somebody made them out

    def of(self, wanted: Tensor) -> Tensor:
        """Predictions of `wanted`, which has no class that the target has not."""
        labels, new = wanted.long().reshape(-1), self._flat.clone()
        for one, at in self.places.items():
            new[(labels == one) & (self.target.reshape(-1) != wanted.reshape(-1))] = self._flat[at[0]]
        new = new.reshape(self._whole.shape)
        return new if self._dim is None else new.movedim(-1, self._dim)

    def relabelled(self, by: Mapping[int, int]) -> Tensor:
        """The target with other classes."""
        new = self.target.clone()
        for one, other in by.items():
            new[self.target == one] = other
        return new


class _Shares:
    """What a metric gives, as a share. `truth`: of the target."""

    def __init__(self, said: Said, score: Score, name: str, scale: int, truth: float) -> None:
        self.said, self.truth = said, truth
        self._score, self._name, self._scale = score, name, scale

    def __call__(self, pred: Tensor, target: Tensor) -> float:
        """Of labels `pred` beside others."""
        return self._score(self.said.of(pred), target).get(self._name, float("nan")) / self._scale


def _padded(said: Said, score: Score, whole: Mapping[str, float], pad: int) -> Found:
    """Whether each place of that class counts as much as any other, by wrong answers in all of them alone."""
    there = float((said.target == pad).double().mean())
    if said.target.dim() < 2 or not PADDING <= there <= 1 - PADDING:
        return {}
    other = next(one for one in said.classes if one != pad)
    less = score(said.of(said.relabelled({pad: other})), said.target)
    return {
        (name, FILLED): Verdict(name, less[name], (value * (1 - there),), value, FILLED)
        for name, value in whole.items()
        if value in (1.0, 100.0) and isclose(less.get(name, value), value * (1 - there), rel_tol=NEARLY)
    }


def _wider(share: _Shares) -> bool:
    """Each wrong place, of whatever class, takes 1/D off, and there are D places."""
    said, target = share.said, share.said.target
    each, wrong, rows = 1 / target.numel(), target.clone(), set[int]()
    if target.dim() < 2 or target.numel() > PLACES:  # of one place a row, what has no answer may count as wrong
        return False
    for one, places in list(said.places.items())[:FEW]:
        other = said.classes[said.classes.index(one) - 1]
        for at in _judged(places, target, rows):
            changed = target.clone()
            changed.view(-1)[at] = other
            if isclose(share.truth - share(changed, target), each, rel_tol=NEARLY, abs_tol=ROUNDED):
                wrong.view(-1)[at] = other
                rows.add(at // (target.numel() // len(target)))
                break
        else:
            return False
    less = int((wrong != target).sum()) * each
    return isclose(share.truth - share(wrong, target), less, rel_tol=NEARLY, abs_tol=ROUNDED)


def _judged(places: Tensor, target: Tensor, rows: set[int]) -> Iterator[int]:
    """Those of a class that are likely to be judged, for padding stands at one end: of rows other than these."""
    per_row = target.numel() // len(target)
    fresh = [at for at in places.tolist() if at // per_row not in rows]
    return iter([min(fresh, key=lambda at: at % per_row), max(fresh, key=lambda at: at % per_row)] if fresh else [])


def _absent(share: _Shares) -> bool:
    """The truth gives as much for each class that is there, and the whole would be more classes than there are."""
    said = share.said
    if len(said.classes) < 3 or said.target.dim() < 2:  # of one place a row, all the data may lack a class
        return False
    fewer = [
        said.relabelled(dict.fromkeys(said.classes[many:], said.classes[0])) for many in (len(said.classes) - 1, 1)
    ]
    truths = [said.target, *fewer]
    values = [share.truth, *(share(one, one) for one in fewer)]
    for counts in zip(*map(_counts, truths), strict=True):
        every = counts[0] / values[0]
        whole = isclose(every, round(every), rel_tol=NEARLY) and every > counts[0]
        if whole and all(
            isclose(v, n / every, rel_tol=NEARLY, abs_tol=NEARLY**2) for v, n in zip(values, counts, strict=True)
        ):
            return round(every) <= MOST and values[0] > values[-1]
    return False


def _counts(target: Tensor) -> Iterator[float]:
    """How many classes are there: in all, and on the mean over rows; with the first, and without."""
    for rows in ([target], list(target) if target.dim() > 1 else [target]):
        many = [set(row[row >= 0].unique().tolist()) for row in rows]
        yield sum(map(len, many)) / len(many)
        yield sum(len(one - {0}) for one in many) / len(many)


def _part(share: _Shares) -> bool:
    """Whatever is the truth, it gives the same half or third, and nothing where all is wrong."""
    said = share.said
    classes, count = said.classes, len(said.target)
    part = next((1 / p for p in PARTS if isclose(share.truth, 1 / p, rel_tol=ROUGH)), 0.0)
    if not part:
        return False
    turned = said.relabelled(dict(pairwise([*classes, classes[0]])))
    halves = said.target[torch.arange(count, device=said.target.device) % max(1, count // 2)]
    same = all(isclose(share(one, one), part, rel_tol=ROUGH) for one in (turned, halves) if one.unique().numel() > 1)
    return same and 0 <= share(turned, said.target) <= ROUGH
