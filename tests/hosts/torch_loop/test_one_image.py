"""X5 through the door: runs in which all images are one, and runs in which that is as it should be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline

Pictures = Callable[[int], Tensor]


class Captioner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.see, self.words = nn.Conv2d(3, 16, 4, stride=4), nn.Embedding(12, 16)
        self.tell, self.out = nn.GRU(16, 16, batch_first=True), nn.Linear(16, 12)

    def forward(self, image: Tensor, ids: Tensor) -> Tensor:
        seen = self.see(image).flatten(2).mean(2)
        return self.out(self.tell(self.words(ids), seen[None].contiguous())[0])


def codes(model: nn.Module, loss: Callable[[int], Tensor], steps: int = 20) -> list[str]:
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for step in range(steps):
            opt.zero_grad()
            loss(step).backward()
            opt.step()
    return [f.code for f in guard.findings if f.severity != "note"]


def captions(pictures: Pictures) -> list[str]:
    torch.manual_seed(0)
    model = Captioner()

    def loss(step: int) -> Tensor:
        ids = torch.randint(1, 12, (16, 6))
        return F.cross_entropy(model(pictures(step), ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())

    return codes(model, loss)


def black(step: int) -> Tensor:
    return torch.full((16, 3, 8, 8), -1.8)


def one(step: int) -> Tensor:
    return torch.linspace(-1, 1, 192).view(1, 3, 8, 8).repeat(16, 1, 1, 1)


@pytest.mark.parametrize("pictures", [black, one])
def test_one_image_for_all(pictures: Pictures) -> None:
    assert captions(pictures) == ["X5"]


def test_one_image_for_all_classes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    assert "X5" in codes(model, lambda _: F.cross_entropy(model(torch.zeros(16, 1, 8, 8)), torch.randint(0, 4, (16,))))


@pytest.mark.parametrize(
    "pictures",
    [
        lambda step: torch.randn(16, 3, 8, 8),
        lambda step: black(step) if step < 5 else torch.randn(16, 3, 8, 8),
        lambda step: black(step) if step < 16 else torch.randn(16, 3, 8, 8),
        lambda step: torch.rand(16, 1, 1, 1).expand(16, 3, 8, 8),
        lambda step: torch.cat([black(step)[1:], torch.randn(1, 3, 8, 8)]),
    ],
    ids=["pictures", "screens that are black at first", "texts alone at first", "plain colours", "most are missing"],
)
def test_images_that_differ(pictures: Pictures) -> None:
    assert "X5" not in captions(pictures)


def test_a_picture_that_is_made_from_one_noise() -> None:
    """Deep image prior: one input, and one picture that is wanted."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    noise, wanted = torch.randn(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    assert "X5" not in codes(model, lambda _: F.mse_loss(model(noise), wanted), steps=150)


def test_numbers_alone_for_all() -> None:
    """The same input and the same answer in all rows: a stand-in for data, to try out a loop."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 4))
    answer = torch.zeros(16, dtype=torch.long)
    assert "X5" not in codes(model, lambda _: F.cross_entropy(model(torch.ones(16, 1, 8, 8)), answer))
