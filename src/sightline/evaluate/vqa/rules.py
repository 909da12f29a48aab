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
from functools import lru_cache
from itertools import compress

from sightline.data.clean import clean, clean_lmms, tidy, without_signs

ENOUGH = 3  # people who agree make an answer right
Same = Callable[[str, set[str]], list[str]]
Mean = Callable[[Sequence[float]], float]


@dataclass(frozen=True, slots=True)
class Rule:
    """One of the rules. Called with a prediction and the answers of people, it gives an accuracy in [0, 1].

    Attributes:
        same: those of the different answers that say what the prediction says, once the rule has cleaned them.
        mean: of the accuracies against each choice of the others.
        source: whose code does it so.
    """

    name: str
    source: str
    same: Same
    mean: Mean

    def __call__(self, prediction: str, answers: Sequence[str], besides: Sequence[Hashable] | None = None) -> float:
        """The accuracy of `prediction`.

        Args:
            prediction: the answer to be judged.
            answers: what people answered, in the file's order (rounding depends on it). At least one.
            besides: what stands beside each answer in its entry. Entries that are equal in this too, and in the
                answer once it is cleaned, are left out together. None where no two entries are equal.
        """
        same = self.same(prediction, set(answers))
        if not same:
            return 0.0
        if besides is None and sum(map(answers.count, same)) > ENOUGH:
            return 1.0
        agree = tuple(answer in same for answer in answers)
        if besides is None:
            return _accuracy(self.mean, agree)
        alike = Counter(compress(besides, agree))
        return self.mean(
            [_worth(sum(agree) - alike[beside] * here) for here, beside in zip(agree, besides, strict=True)]
        )


def _worth(others: int) -> float:
    """Of an answer that so many of the others gave."""
    return min(1.0, others / ENOUGH)


@lru_cache(4096)
def _accuracy(mean: Mean, agree: tuple[bool, ...]) -> float:
    """Where every entry is a person's, and those who `agree` gave the answer."""
    return mean([_worth(sum(agree) - here) for here in agree])


def added(values: Iterable[float]) -> float:
    """The sum from left to right, each addition rounded: `sum` compensates for that from Python 3.12 on."""
    total = 0.0
    for value in values:
        total += value
    return total


def _mean_in_turn(values: Sequence[float]) -> float:
    return added(values) / len(values)


def _official(prediction: str, different: set[str]) -> list[str]:
    if len(different) == 1 or len(set(map(tidy, different))) == 1:  # all agree: nothing is cleaned
        given = tidy(prediction)
        return [answer for answer in different if tidy(answer) == given]
    given = clean(prediction)
    return [answer for answer in different if clean(answer) == given]


def _lavis(prediction: str, different: set[str]) -> list[str]:
    given = clean(prediction)
    if len(different) == 1:
        return [answer for answer in different if answer == given]
    return [answer for answer in different if without_signs(answer) == given]


def _lmms_eval(prediction: str, different: set[str]) -> list[str]:
    given = clean_lmms(prediction)
    return [answer for answer in different if clean_lmms(answer) == given]


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("official", "GT-Vision-Lab/VQA of 2021-03-11 and later", _official, _mean_in_turn),
        Rule("lavis", "LAVIS 1.0.2, and GT-Vision-Lab/VQA before 2021-03-11", _lavis, _mean_in_turn),
        Rule("lmms-eval", "lmms-eval 0.7.3", _lmms_eval, statistics.mean),
    )
}
