"""M1 where rows on both sides were made of one picture: views of it, or texts about it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.catalogue import load, page

Rows = tuple[Tensor, ...]


def messages(model: nn.Module, train: Rows, judged: Rows) -> list[str]:
    """What M1 says of three epochs, each with an evaluation behind it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("M1"),))) as guard:
        for _ in range(3):
            for at in torch.randperm(len(train[0])).split(32):
                optimizer.zero_grad()
                model(*(part[at] for part in train)).square().mean().backward()
                optimizer.step()
            with guard.evaluating(), torch.no_grad():
                model.eval()
                for at in torch.arange(len(judged[0])).split(64):
                    model(*(part[at] for part in judged))
                model.train()
    return [finding.message for finding in guard.findings]


def expanded(pictures: Tensor) -> Tensor:
    """Three views of each."""
    views = []
    for _ in range(3):
        down, right = torch.randint(-1, 2, (2,)).tolist()
        views.append(pictures.roll((down, right), (2, 3)) * 1.1 + 0.05 * torch.randn(pictures.shape))
    return torch.cat(views)


@pytest.mark.parametrize("before", [True, False], ids=["before the split", "behind it"])
def test_pictures_expanded_into_views(before: bool) -> None:
    torch.manual_seed(0)
    pictures = torch.randn(240, 1, 24, 24)
    if before:
        every = expanded(pictures)[torch.randperm(720)]
        train, judged = every[:570], every[570:]
    else:
        train, judged = expanded(pictures[:190]), expanded(pictures[190:])
    model = nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.Flatten(), nn.Linear(484, 3))
    found = messages(model, (train,), (judged,))
    assert len(found) == before and all("are views of ones trained on" in message for message in found)


class TwoTowers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.see, self.read = nn.Linear(3 * 12 * 12, 8), nn.Embedding(50, 8)

    def forward(self, pictures: Tensor, words: Tensor) -> Tensor:
        return F.normalize(self.see(pictures.flatten(1)), dim=-1) @ F.normalize(self.read(words).mean(1), dim=-1).T


@pytest.mark.parametrize("judged_by", ["other texts", "other pictures", "prompts for trained pictures"])
def test_texts_about_one_picture(judged_by: str) -> None:
    torch.manual_seed(0)
    pictures, texts = torch.randn(120, 3, 12, 12), torch.randint(2, 50, (120, 4, 6))
    order = torch.randperm(480) if judged_by == "other texts" else torch.arange(480)
    held, kept = (order[:96], order[96:])
    train = (pictures[kept // 4], texts[kept // 4, kept % 4])
    judged = (pictures[held // 4], texts[held // 4, held % 4])
    if judged_by == "prompts for trained pictures":
        some = 24 + torch.randperm(96)[:50]
        prompts = torch.cat([torch.ones(50, 1, dtype=torch.long), texts[some, 0, :2]], dim=1)
        judged = (pictures[some], F.pad(prompts, (0, 3)))
    found = messages(TwoTowers(), train, judged)
    assert len(found) == (judged_by == "other texts")
    assert all("pictures of training rows, with other texts" in message for message in found)
