"""Which form of the labels predictions follow."""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.attach.script.scoring.readings import reading


def answers(rows: int) -> tuple[Tensor, Tensor]:
    """Letters that are repeated up to an end, as labels (rows, 14); and the same of a model that stops too soon."""
    draw = torch.Generator().manual_seed(0)
    labels, said = torch.full((rows, 14), -100), torch.randint(2, 12, (rows, 14), generator=draw)
    for row in range(rows):
        letter, many = int(torch.randint(2, 12, (), generator=draw)), int(torch.randint(9, 12, (), generator=draw))
        for place, one in enumerate([letter] * many + [1]):
            labels[row, place] = one
        said[row, : many + 1] = torch.tensor([letter] * (many - 1) + [1, 1])
    return labels, said


def test_a_model_that_ends_too_soon() -> None:
    """Where labels differ from their neighbours it meets the later one, and nearly everywhere else both."""
    labels, said = answers(80)
    assert reading(said, labels) is None


def test_a_model_that_is_one_place_ahead() -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 12, (80, 14), generator=draw)
    found = reading(labels.roll(-1, 1), labels)
    assert found is not None and found.others
