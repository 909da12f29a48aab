from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from sightline.evaluate.looking.paired import against, mcnemar


def exact(lost: int, gained: int) -> Fraction:
    flips = lost + gained
    return min(Fraction(1), 2 * sum(Fraction(math.comb(flips, k), 2**flips) for k in range(min(lost, gained) + 1)))


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (1, 0), (5, 5), (3, 17), (17, 3), (40, 60), (400, 300)])
def test_mcnemar_is_the_exact_binomial(lost: int, gained: int) -> None:
    assert mcnemar(lost, gained) == pytest.approx(float(exact(lost, gained)) if lost + gained else 1.0, rel=1e-9)


def test_mcnemar_of_many_flips_is_still_a_number() -> None:
    assert 0 <= mcnemar(90_000, 10_000) < 1e-300
    assert mcnemar(100_000, 100_000) == pytest.approx(1.0)


def test_flips_are_counted_where_marks_are_right_or_wrong_and_not_between() -> None:
    seen = against([1.0, 1.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0], list("abcd"))
    assert (seen["lost"], seen["gained"], seen["p"], seen["difference"]) == (1, 1, 1.0, 0.0)
    assert "p" not in against([1.0, 0.3], [0.0, 1.0], list("ab"))


def test_questions_of_one_image_are_drawn_together() -> None:
    draw = np.random.default_rng(0)
    gains = np.repeat(draw.random(40) < 0.5, 25).astype(float).tolist()  # 25 questions an image, all with one fate
    images = [str(place // 25) for place in range(1000)]
    together = against(gains, [0.0] * 1000, images)["difference_interval"]
    apart = against(gains, [0.0] * 1000, [str(place) for place in range(1000)])["difference_interval"]
    assert (together[1] - together[0]) > 4 * (apart[1] - apart[0])  # 5 times, by the root of 25
