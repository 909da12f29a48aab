"""Hard negatives: their law, and every case in which a plain draw fails. The two-class loss against torch's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sightline.errors import UserError
from sightline.losses.matching import NONE, matching, sample_negatives


def drawn(similarity: torch.Tensor, times: int = 4000, **options: object) -> torch.Tensor:
    """Shares of each column in `times` draws for row 0."""
    generator = torch.Generator().manual_seed(0)
    columns = [int(sample_negatives(similarity, generator=generator, **options)[0]) for _ in range(times)]
    return torch.bincount(torch.tensor(columns), minlength=similarity.shape[1]) / times


def test_negatives_follow_the_softmax_without_the_own_image() -> None:
    similarity = torch.tensor([[5.0, 1.0, 0.0, 2.0, 1.5]])
    expected = similarity[0].exp()
    expected[[0, 3]] = 0  # the pair itself and another caption of its image
    found = drawn(similarity, image_ids=torch.tensor([7, 1, 2, 7, 3]))
    torch.testing.assert_close(found, expected / expected.sum(), atol=0.03, rtol=0)


def test_a_saturated_distribution_still_gives_the_hardest() -> None:
    """All probability on the own pair: after an ordinary softmax the rest would be 0, and the draw would fail."""
    similarity = torch.full((3, 3), -1e5)
    similarity.fill_diagonal_(1e5)
    similarity[0, 2] = similarity[1, 0] = similarity[2, 1] = -9e4
    assert F.softmax(similarity, 1).masked_fill(torch.eye(3) == 1, 0).sum() == 0
    assert sample_negatives(similarity).tolist() == [2, 0, 1]


def test_no_negative_exists() -> None:
    assert sample_negatives(torch.ones(1, 1)).tolist() == [NONE]
    assert sample_negatives(torch.ones(3, 3), torch.zeros(3, dtype=torch.long)).tolist() == [NONE] * 3
    assert sample_negatives(torch.ones(0, 3), own=2).tolist() == []
    mixed = sample_negatives(torch.ones(2, 3), torch.tensor([4, 4, 5]))
    assert mixed.tolist() == [2, 2]


def test_rows_of_a_later_rank_and_equal_seeds() -> None:
    similarity = torch.zeros(2, 4)
    similarity[:, 2:] = 100.0  # the own pairs: columns 2 and 3
    first, second = (sample_negatives(similarity, own=2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.tolist() == second.tolist() == [3, 2]


def test_negatives_refuse_what_is_not_finite_or_does_not_fit() -> None:
    with pytest.raises(UserError, match="not finite"):
        sample_negatives(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(UserError, match="2 own pairs from 3 among 4"):
        sample_negatives(torch.ones(2, 4), own=3)


@pytest.mark.parametrize("queries", [None, 5])
def test_matching_is_two_class_cross_entropy_of_the_mean_over_queries(queries: int | None) -> None:
    logits = torch.randn((6, 2) if queries is None else (6, queries, 2), requires_grad=True)
    matches = torch.tensor([1, 1, 0, 0, 0, 0])
    total, count = matching(logits, matches)
    mean = logits.double() if queries is None else logits.double().mean(1)
    expected = sum(-mean[i, matches[i]] + mean[i].exp().sum().log() for i in range(6))
    torch.testing.assert_close(total.double(), expected, rtol=1e-6, atol=1e-6)
    ours, theirs = torch.autograd.grad(total, logits), torch.autograd.grad(expected, logits)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    assert count == 6


def test_matching_refuses_other_classes() -> None:
    with pytest.raises(UserError, match=r"got \(4, 3\)"):
        matching(torch.ones(4, 3), torch.ones(4, dtype=torch.long))
