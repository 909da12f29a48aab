"""What a vision tower is given: pixels as in files, pictures that were divided twice, and those it is made for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.guard.check import Finding
from sightline.guard.evidence.pictures import Pixels


class Captioner(nn.Module):
    def __init__(self, behind: nn.Module, *, joined: bool = True) -> None:
        super().__init__()
        self.vision = nn.Sequential(nn.Conv2d(3, 16, 4, 4), behind, nn.Flatten(2))
        self.projector = nn.Linear(16, 16) if joined else None
        self.words, self.out = nn.Embedding(9, 16), nn.Linear(16, 9)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        seen = self.vision(images).mT.mean(1, keepdim=True)
        return self.out((seen if self.projector is None else self.projector(seen)) + self.words(ids))


MEAN, SPREAD = (torch.tensor(c).view(3, 1, 1) for c in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
GIVEN = {
    "raw": lambda x: x,
    "over a spread": lambda x: (x - MEAN) / SPREAD,
    "twice": lambda x: x / 255 / 255,
    "twice, normalised": lambda x: (x / 255 / 255 - MEAN) / SPREAD,
    "unit": lambda x: x / 255,
    "normalised": lambda x: (x / 255 - MEAN) / SPREAD,
    "centred": lambda x: x - torch.tensor([123.7, 116.3, 103.5]).view(3, 1, 1),  # as Caffe's towers take them
    "black": lambda x: x * 0,
}


def told(given: str, behind: nn.Module, *, loaded: bool = False, joined: bool = True) -> list[str]:
    torch.manual_seed(0)
    model, found = Captioner(behind, joined=joined), list[Finding]()
    if loaded:
        model.load_state_dict({name: 1.5 * value for name, value in model.state_dict().items()})
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
    with sightline.attach(model, optimizer, on_finding=found.append, budget=1.0):
        for _ in range(3):
            pixels, ids = torch.randint(0, 256, (8, 3, 8, 8)).float(), torch.randint(9, (8, 5))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(GIVEN[given](pixels), ids).flatten(0, 1), ids.flatten()).backward()
            optimizer.step()
    return [one.message for one in found if one.code == "X2"]


@pytest.mark.usefixtures("origins")
@pytest.mark.parametrize(
    "given", [name if name in ("raw", "normalised") else pytest.param(name, marks=pytest.mark.slow) for name in GIVEN]
)
def test_what_a_tower_is_given(given: str) -> None:
    wrong = {"raw": "in files", "over a spread": "in files"} | dict.fromkeys(("twice", "twice, normalised"), "twice")
    messages = told(given, nn.ReLU())
    assert len(messages) == (given in wrong) and all(wrong[given] in message for message in messages)


@pytest.mark.slow
@pytest.mark.usefixtures("origins")
def test_a_tower_without_a_projector() -> None:
    assert len(told("raw", nn.ReLU(), joined=False)) == 1 and told("unit", nn.ReLU(), joined=False) == []


@pytest.mark.slow
@pytest.mark.usefixtures("origins")
def test_a_norm_takes_the_scale_off_and_what_was_loaded_may_be_used_to_it() -> None:
    assert told("raw", nn.BatchNorm2d(16)) == []
    assert told("raw", nn.ReLU(), loaded=True) == []


def test_borders() -> None:
    dark = Pixels(0.0, 255.0, 40.0, 255.0, small=True)
    assert dark.wrong and not replace(dark, size=8.0).wrong and not replace(dark, least=-120.0).wrong
    assert not replace(dark, small=False).wrong and not replace(dark, most=4095.0, range=4095.0).wrong
    faint = Pixels(-2.12, -1.78, 1.95, 0.017, small=True)
    assert faint.wrong and not replace(faint, range=0.1).wrong and not replace(faint, range=1e-5).wrong
