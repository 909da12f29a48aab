"""I4 through the door: batches with one row of token ids for all images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import sightline

Read = Callable[[torch.Tensor], torch.Tensor]


class Answers(nn.Module):
    """A question about a coloured square, answered by one of 12 words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.sight = nn.Embedding(20, 16), nn.Linear(3 * 4 * 4, 16)
        self.mix, self.out = nn.Linear(16, 16), nn.Linear(16, 12)

    def forward(self, *, text: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        read = self.words(text).mean(1).expand(len(image), -1)
        return self.out(torch.relu(self.mix(read + self.sight(image.flatten(1)))))


def codes(read: Read, *, task: bool = False, steps: int = 50, rows: int = 12) -> list[str]:
    """Train; `read` makes a batch's token ids of those of its samples. `task`: a batch asks one question of all."""
    torch.manual_seed(0)
    net = Answers()
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(1)
    with sightline.attach(net, opt, on_finding=None, budget=1.0) as guard:
        for _ in range(steps):
            asked = torch.randint(0, 4, (1 if task else rows,), generator=draw).expand(rows)
            colour = torch.randint(0, 3, (rows,), generator=draw)
            image = torch.eye(3)[colour][:, :, None, None].expand(-1, -1, 4, 4)
            image = image + 0.1 * torch.randn(rows, 3, 4, 4, generator=draw)
            text = torch.stack([torch.full((rows,), 7), 3 + asked], dim=1)
            opt.zero_grad()
            answers = net(text=read(text), image=image)
            nn.functional.cross_entropy(answers, 3 * asked + colour).backward()
            opt.step()
    return [f.code for f in guard.findings]


@pytest.mark.parametrize(
    "read",
    [lambda t: t[:1], lambda t: t[:1].repeat(len(t), 1), lambda t: t[-1:].expand(len(t), -1)],
    ids=["one row", "the first row for all", "the last row for all"],
)
def test_the_text_of_one_sample(read: Read) -> None:
    assert "I4" in codes(read)


@pytest.mark.parametrize(
    "how",
    [
        {"read": lambda t: t},
        {"read": lambda t: t[:1], "task": True},
        {"read": lambda t: t, "task": True},
        {"read": lambda t: t[:1] * 0 + 5},
    ],
    ids=["each its own", "one task a batch", "one task a batch, in every row", "one prompt"],
)
def test_texts_that_belong_to_all(how: dict[str, Any]) -> None:
    assert "I4" not in codes(**how)
