"""Plain classifiers to attack: a small linear one, and a pretrained ResNet-20 where its weights are at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from sightline.evaluate.robust.attacks.target import Target

DATA = Path(__file__).parents[4] / "shared" / "data"
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def target(model: nn.Module, pixels: Tensor, labels: Tensor, seed: int = 0) -> Target:
    """One picture a row; the loss is the cross-entropy of its label."""

    def loss(at: Tensor) -> Tensor:
        return F.cross_entropy(model(at), labels, reduction="none")

    return Target(pixels, torch.arange(len(pixels)), loss, [seed + place for place in range(len(pixels))])


def linear(classes: int = 3, side: int = 6) -> nn.Module:
    """A classifier whose best attack is known in closed form."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes))


class Block(nn.Module):
    """Two convolutions and a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, given: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(given, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.more = stride, width - given

    def forward(self, x: Tensor) -> Tensor:
        short = x[:, :, :: self.stride, :: self.stride]
        short = F.pad(short, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + short)


class ResNet20(nn.Module):
    """The CIFAR-10 network of He et al. 2016, on pixels from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for number, (given, width, stride) in enumerate(((16, 16, 1), (16, 32, 2), (32, 64, 2)), 1):
            blocks = [Block(given if first else width, width, stride if first else 1) for first in (True, False, False)]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (CIFAR_MEAN, CIFAR_STD))
        x = F.relu(self.bn1(self.conv1((pixels - mean) / std)))
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
        return self.linear(x.mean((2, 3)))


def pretrained() -> ResNet20:
    """ResNet-20 with weights trained on CIFAR-10; skips the test where they are not at hand."""
    file = DATA / "weights" / "resnet20_cifar10.pth"
    if not file.is_file():
        pytest.skip(f"no {file.name} in shared/data/weights")
    state = torch.load(file, map_location="cpu", weights_only=True)
    model = ResNet20()
    model.load_state_dict({name.removeprefix("module."): value for name, value in state["state_dict"].items()})
    return model.eval()


def photos(count: int) -> Tensor:
    """(count, 3, 32, 32) photographs from 0 to 1, in levels of 255; skips the test where there are none."""
    files = sorted((DATA / "coco_tiny").rglob("*.jpg"))[:count]
    if not files:
        pytest.skip("no photographs in shared/data/coco_tiny")
    made = [np.asarray(Image.open(file).convert("RGB").resize((32, 32))) for file in files]
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous().float() / 255
