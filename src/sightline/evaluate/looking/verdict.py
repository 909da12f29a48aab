"""It looks, it does not look, or it cannot be told: the rule, and what it says of one evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Says = Literal["looks", "does not look", "cannot tell"]

LEAST = 0.02  # a smaller gain by the right image is none that anyone would train a vision tower for
FEW_IMAGES = 10  # with fewer, a bootstrap over images has too few ways to draw them
FEW_QUESTIONS = 100  # with fewer, answers that never change may be chance
RULE = (
    "The same questions are asked about their own images and about exchanged ones; the 95 % interval of the difference "
    "in accuracy is drawn over images. It looks: the interval lies above 0 and reaches 2 points or more (and, where "
    "every answer is right or wrong, McNemar's exact test gives p < 0.05). It does not look: the interval ends below "
    "2 points, or no answer changes with the image. It cannot be told otherwise; nor with fewer than 10 images, where "
    "almost nothing is answered right, or where the words of the questions settle the answers."
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the rule reads. `shuffled`: its `accuracy`, `difference_interval`, `changed` and, where known, `p`.

    `settled`: what the best single answer to each repeated question text scores; None where no text is repeated.
    """

    accuracy: float
    questions: int
    images: int
    shuffled: Mapping[str, Any] | None
    settled: float | None = None


def verdict(seen: Seen) -> dict[str, str]:
    """`says`, one of three, and `why`, in numbers."""
    says, why = _judged(seen)
    return {"says": says, "why": why}


def _judged(seen: Seen) -> tuple[Says, str]:
    shuffled = seen.shuffled
    if shuffled is None or shuffled.get("accuracy") is None:
        return "cannot tell", "the questions were not asked about other images"
    if shuffled["changed"] == 0 and seen.questions >= FEW_QUESTIONS:
        return "does not look", f"no answer of {seen.questions:,} changed when its image was exchanged"
    if seen.images < FEW_IMAGES:
        return "cannot tell", f"there are {seen.images} different images, fewer than {FEW_IMAGES}"
    if max(seen.accuracy, shuffled["accuracy"]) < LEAST:
        return "cannot tell", "almost nothing is answered right, with any image"
    if seen.settled is not None and seen.settled > 1 - LEAST:
        return "cannot tell", "the words of these questions settle their answers, so no image is needed"
    low, high = shuffled["difference_interval"]
    gained = _points(seen.accuracy - shuffled["accuracy"])
    gain = f"the right image adds {gained} points ({_points(low)} to {_points(high)})"
    if high < LEAST:
        return "does not look", f"{gain}, less than {_points(LEAST)}; {shuffled['changed']:.1%} of the answers changed"
    if low > 0 and shuffled.get("p", 0.0) < 0.05:
        return "looks", gain
    return "cannot tell", f"{gain}: too uncertain, more questions would tell"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}" if share != LEAST else f"{100 * share:.0f}"
