from __future__ import annotations

import math

import numpy as np
import pytest

from sightline.evaluate.bootstrap import interval, of_sums, paired, resampled


def test_the_interval_of_a_mean_is_the_normal_one_where_there_are_many() -> None:
    marks = np.random.default_rng(1).choice([0.0, 0.3, 0.6, 0.9, 1.0], size=20_000)
    low, high = interval(marks)
    half = 1.96 * marks.std() / math.sqrt(len(marks))
    assert (low, high) == (
        pytest.approx(marks.mean() - half, abs=half / 15),
        pytest.approx(marks.mean() + half, abs=half / 15),
    )


def test_equal_lines_drawn_together_are_distributed_as_lines_drawn_one_by_one() -> None:
    few = np.repeat([0.0, 0.5, 1.0], [50, 20, 30])
    together = resampled(few[:, None], resamples=20_000)[:, 0]  # 3 distinct lines: a multinomial
    nearly = few[:, None] + np.arange(100)[:, None] * 1e-9  # 100 distinct ones: drawn by index
    one_by_one = resampled(nearly, resamples=20_000, seed=5)[:, 0]
    assert together.mean() == pytest.approx(one_by_one.mean(), abs=0.15)
    assert together.std() == pytest.approx(one_by_one.std(), rel=0.03)
    assert together.std() == pytest.approx(math.sqrt(100) * few.std(), rel=0.03)


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    marks = list(np.random.default_rng(0).random(50))
    assert interval(marks) == interval(marks)
    assert interval(marks) != interval(marks, seed=1)


def test_95_of_100_intervals_hold_the_truth() -> None:
    draw = np.random.default_rng(3)
    held = sum(
        low <= 0.7 <= high for low, high in (interval(draw.random(200) < 0.7, resamples=500) for _ in range(300))
    )
    assert held / 300 == pytest.approx(0.95, abs=0.035)


def test_questions_of_one_image_that_stand_and_fall_together_make_the_interval_wider() -> None:
    images = np.repeat(np.arange(100), 4)
    marks = np.repeat(np.random.default_rng(2).integers(0, 2, 100), 4).astype(float)
    (low, high), (near_low, near_high) = interval(marks, clusters=images.tolist()), interval(marks)
    assert (high - low) / (near_high - near_low) == pytest.approx(2, rel=0.1)  # sqrt of 4 questions an image


def test_clusters_of_one_question_change_nothing_but_the_draw() -> None:
    marks = np.random.default_rng(2).random(300)
    assert interval(marks, clusters=list(range(300))) == pytest.approx(interval(marks), abs=0.005)


def test_a_difference_of_pairs_is_surer_than_its_ends() -> None:
    draw = np.random.default_rng(4)
    hard = draw.random(500)
    worse, better = (hard < 0.6).astype(float), (hard < 0.65).astype(float)
    found = paired(better, worse)
    assert found.low < found.mean < found.high
    assert found.low > 0 and found.p < 0.01
    assert interval(better)[0] < interval(worse)[1]  # told apart by the pairs alone
    assert paired(worse, better).mean == -found.mean


def test_no_difference_is_not_sure() -> None:
    found = paired([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert (found.mean, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_a_score_of_sums() -> None:
    columns = np.random.default_rng(5).random((400, 2))
    low, high = of_sums(columns, lambda sums: sums[:, 0] / sums[:, 1])
    assert low < columns[:, 0].sum() / columns[:, 1].sum() < high


def test_resamples_without_a_score_are_left_out() -> None:
    with np.errstate(invalid="ignore"):
        low, high = of_sums([[0.0], [0.0], [1.0]], lambda sums: sums[:, 0] / sums[:, 0])
        assert (low, high) == (1, 1)
        assert all(math.isnan(end) for end in of_sums([[0.0]], lambda sums: sums[:, 0] / sums[:, 0]))


@pytest.mark.parametrize(("marks", "clusters"), [([], None), ([0.0, math.nan], None), ([1.0, 0.0], ["a"])])
def test_what_cannot_be_resampled_is_refused(marks: list[float], clusters: list[str] | None) -> None:
    with pytest.raises(ValueError, match=r"nothing|finite|clusters"):
        interval(marks, clusters=clusters)


def test_marks_of_different_questions_are_refused() -> None:
    with pytest.raises(ValueError, match="same questions"):
        paired([1.0], [1.0, 0.0])
