"""M1 where a run's data are few different rows, drawn again and again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline


@pytest.mark.parametrize("different", [25, 1000], ids=["few", "many"])
def test_rows_drawn_from_a_few(different: int) -> None:
    """All that there is comes into both: of 25 pictures by chance, of a thousand because rows were left in both."""
    torch.manual_seed(0)
    pool = torch.randn(different, 16)
    model = nn.Linear(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    train = pool[torch.randint(0, different, (60,))]
    held_out = pool[torch.randint(0, different, (100,))]
    if different > 25:
        held_out[:60] = train
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for rows in train.split(12):
            optimizer.zero_grad()
            model(rows).square().mean().backward()
            optimizer.step()
            with guard.evaluating(), torch.no_grad():
                model.eval()
                model(held_out)
                model.train()
    found = {finding.check for finding in guard.findings}
    assert ("train-test-leakage" in found) == (different > 25)


def epochs(train: torch.Tensor, judged: torch.Tensor, batch: int, judged_batch: int) -> set[str]:
    """The checks that find something in three epochs, each with an evaluation behind it."""
    model = nn.Linear(16, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(3):
            for rows in train[torch.randperm(len(train))].split(batch):
                optimizer.zero_grad()
                model(rows).square().mean().backward()
                optimizer.step()
            with guard.evaluating(), torch.no_grad():
                model.eval()
                for rows in judged.split(judged_batch):
                    model(rows)
                model.train()
    return {finding.check for finding in guard.findings}


@pytest.mark.parametrize("mixed", [False, True], ids=["a training score beside a test", "a split with training rows"])
def test_a_part_of_training_evaluated_beside_new_rows(mixed: bool) -> None:
    torch.manual_seed(0)
    train, new = torch.randn(120, 16), torch.randn(36, 16)
    judged = torch.cat([train[:36], new])
    if mixed:
        judged = judged[torch.randperm(len(judged))]
    assert ("train-test-leakage" in epochs(train, judged, 12, 12)) == mixed


@pytest.mark.parametrize("before", [True, False], ids=["before the split", "behind it"])
def test_some_rows_copied(before: bool) -> None:
    """Training repeats itself either way; only before the split do copies get to both sides."""
    torch.manual_seed(0)
    rows, place = torch.randn(500, 16), torch.arange(500)
    seldom = place < 60
    if before:
        place = torch.cat([place, *[place[seldom]] * 5])
    place = place[torch.randperm(len(place))]
    judged, train = place[: len(place) // 4], place[len(place) // 4 :]
    if not before:
        train = torch.cat([train, *[train[train < 60]] * 5])
    assert ("train-test-leakage" in epochs(rows[train], rows[judged], 16, 40)) == before


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("before the split", True),
        ("behind it", False),
        ("a training score", False),
        ("each pattern there is", False),
    ],
)
def test_all_rows_copied(kind: str, found: bool) -> None:
    """Votes of two or three judges, each a row: hardly any judged row is new, and yet it is no training score."""
    torch.manual_seed(0)
    rows, votes = torch.randn(500, 16), torch.randint(2, 4, (500,))
    if kind == "each pattern there is":
        patterns = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 8)
        rows, votes = patterns.repeat_interleave(2, dim=1), votes[: len(patterns)]
    place = torch.arange(len(rows)).repeat_interleave(votes)
    place = place[torch.randperm(len(place))]
    judged, train = place[: len(place) // 6], place[len(place) // 6 :]
    if kind == "behind it":
        judged, train = (
            torch.arange(len(rows))[part].repeat_interleave(votes[part]) for part in (rows[:, 0] > 1, rows[:, 0] <= 1)
        )
    if kind == "a training score":
        train, judged = place, place[torch.randperm(len(place))[: len(place) // 6]]
    assert ("train-test-leakage" in epochs(rows[train], rows[judged], 16, 16)) == found
