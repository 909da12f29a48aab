"""Recall equals torchmetrics' where scores differ, chance equals counting, and equal scores find nothing."""

from __future__ import annotations

import itertools

import pytest
import torch

from sightline.errors import UserError
from sightline.evaluate.retrieval import classify, ranks


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_is_that_of_torchmetrics(seed: int, k: int) -> None:
    torchmetrics = pytest.importorskip("torchmetrics")
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.randn(40, 60, generator=generator)
    right = torch.rand(40, 60, generator=generator) < 0.05
    right[torch.arange(40), torch.arange(40)] = True
    queries = torch.arange(40)[:, None].expand(40, 60)
    hit_rate = torchmetrics.retrieval.RetrievalHitRate(top_k=k)
    expected = hit_rate(similarity.flatten(), right.flatten(), indexes=queries.flatten())
    found = ranks(similarity, right)
    assert found.recall(k) == pytest.approx(float(expected), abs=1e-7)
    positive = similarity.sigmoid().flatten()  # its MRR takes a right answer with a score of 0 or less for a wrong one
    reciprocal = torchmetrics.retrieval.RetrievalMRR()(positive, right.flatten(), indexes=queries.flatten())
    assert float((1 / found.rank.double()).mean()) == pytest.approx(float(reciprocal), abs=1e-6)


def test_chance_is_what_counting_gives() -> None:
    """Over all orders of 6 candidates, of which 2 are right."""
    right = torch.tensor([[True, True, False, False, False, False]])
    for k in (1, 2, 4, 5, 6):
        orders = list(itertools.permutations(range(6)))
        hits = sum(any(place < 2 for place in order[:k]) for order in orders)
        assert ranks(torch.arange(6.0)[None], right).chance(k) == pytest.approx(hits / len(orders))


def test_one_score_for_all_finds_nothing() -> None:
    right = torch.eye(10, dtype=torch.bool)
    assert ranks(torch.zeros(10, 10), right).recall(5) == 0.0
    assert ranks(torch.eye(10), right).recall(1) == 1.0


def test_what_cannot_be_ranked_is_an_error() -> None:
    right = torch.eye(3, dtype=torch.bool)
    right[1] = False
    with pytest.raises(UserError, match="query 1 has no right answer"):
        ranks(torch.zeros(3, 3), right)
    with pytest.raises(UserError, match="no numbers"):
        ranks(torch.full((3, 3), float("nan")), torch.eye(3, dtype=torch.bool))


def test_zero_shot_averages_prompts_as_unit_vectors() -> None:
    """One long prompt vector must not outweigh the others of its class."""
    classes = torch.tensor([[[100.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    assert classify(torch.tensor([[0.2, 1.0], [1.0, 0.1]]), classes).tolist() == [0, 1]
    assert classify(torch.tensor([[1.0, 0.4]]), classes).tolist() == [1]
