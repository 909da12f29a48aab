"""VQA accuracy: how right an answer is, given what several people answered. Three rules are in use, and they disagree.

All three leave one person out in turn: against each choice of the others, an answer that k of them gave is worth
min(k / 3, 1), and the mean over the choices is its accuracy (Antol et al., arXiv 1505.00468, section 5; Goyal et al.,
arXiv 1612.00837). Of ten people, one, two, three and four or more who agree make 0.3, 0.6, 0.9 and 1. They differ in
what is cleaned before answers are compared (`data/clean.py`), so a figure without its rule says little.

An entry of an annotation file is compared as a whole: "the others" are the entries that differ from the one left out,
in any field. With answer ids these are all others. Without them, people who gave the same answer with the same
confidence are one entry, and leaving it out leaves none of them: ten people who agree make every answer worth 0.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from sightline.data.clean import clean, clean_lmms, tidy, without_signs

ENOUGH = 3  # people who agree make an answer right
Cleaned = tuple[str, list[str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the rules. Called with a prediction and the answers of people, it gives an accuracy in [0, 1].

    Attributes:
        cleaned: the prediction and the answers as the rule compares them.
        mean: of the accuracies against each choice of the others.
        source: whose code does it so.
    """

    name: str
    source: str
    cleaned: Callable[[str, Sequence[str]], Cleaned]
    mean: Callable[[Sequence[float]], float]

    def __call__(self, prediction: str, answers: Sequence[str], besides: Sequence[Hashable] | None = None) -> float:
        """The accuracy of `prediction`.

        Args:
            prediction: the answer to be judged.
            answers: what people answered, in the file's order (rounding depends on it). At least one.
            besides: what stands beside each answer in its entry. Entries that are equal in this too, and in the
                answer once it is cleaned, are left out together. None where no two entries are equal.
        """
        given, wanted = self.cleaned(prediction, answers)
        agreeing = wanted.count(given)
        if not agreeing or (besides is None and agreeing > ENOUGH):
            return float(agreeing > 0)
        alike = Counter(zip(wanted, besides, strict=True)) if besides is not None else None
        worth = []
        for place, answer in enumerate(wanted):
            left_out = alike[answer, besides[place]] if alike and besides else 1
            others = agreeing - (left_out if answer == given else 0)
            worth.append(min(1.0, others / ENOUGH))
        return self.mean(worth)


def added(values: Iterable[float]) -> float:
    """The sum from left to right, each addition rounded: `sum` compensates for that from Python 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total


def _mean_in_turn(values: Sequence[float]) -> float:
    return added(values) / len(values)


def _official(prediction: str, answers: Sequence[str]) -> Cleaned:
    if len(set(answers)) == 1 or len(set(map(tidy, answers))) == 1:  # all agree: nothing is cleaned
        return tidy(prediction), list(map(tidy, answers))
    return clean(prediction), list(map(clean, answers))


def _lavis(prediction: str, answers: Sequence[str]) -> Cleaned:
    if len(set(answers)) == 1:
        return clean(prediction), list(answers)
    return clean(prediction), list(map(without_signs, answers))


def _lmms_eval(prediction: str, answers: Sequence[str]) -> Cleaned:
    return clean_lmms(prediction), list(map(clean_lmms, answers))


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("official", "GT-Vision-Lab/VQA of 2021-03-11 and later", _official, _mean_in_turn),
        Rule("lavis", "LAVIS 1.0.2, and GT-Vision-Lab/VQA before 2021-03-11", _lavis, _mean_in_turn),
        Rule("lmms-eval", "lmms-eval 0.7.3", _lmms_eval, statistics.mean),
    )
}
