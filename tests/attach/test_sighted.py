"""A vision tower without a convolution is known by what it is given; nothing is heard once that is known."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import sightline


class Eyes(nn.Module):
    """Patches by reshaping."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.body = nn.Linear(48, 16), nn.TransformerEncoder(layer(), 1, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.body(self.embed(nn.functional.unfold(images, 4, stride=4).mT)).mean(1)


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.body = nn.Embedding(9, 16), nn.Sequential(nn.Linear(16, 16), nn.GELU())

    def forward(self, ids: Tensor) -> Tensor:
        return self.body(self.words(ids)).mean(1)


class Two(nn.Module):
    """Pictures beside texts. `seen`: what the part beside the reader is given."""

    def __init__(self, seen: str) -> None:
        super().__init__()
        self.beside = nn.Sequential(nn.Flatten(), nn.Linear(192, 16)) if seen != "pictures" else Eyes()
        self.reader, self.projector, self._seen = Reader(), nn.Linear(16, 16), seen

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        if self._seen == "flat":
            images = images.flatten(1)
        return self.projector(self.beside(images)) * self.reader(ids)


def layer() -> nn.Module:
    return nn.TransformerEncoderLayer(16, 2, 16, 0.0, batch_first=True)


def trained(model: nn.Module, told: dict[str, list[str]] | None = None) -> tuple[set[str], nn.Module]:
    """The towers of a model that was trained."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None, towers=told) as guard:
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 3, 8, 8), torch.randint(9, (4, 5))).square().mean().backward()
            optimizer.step()
        towers = guard._recorder.towers
    return {f"{name} {tower}" for name in towers.modules for tower in towers.modules[name]}, model


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        ("pictures", {"vision beside", "language reader", "connector projector"}),
        ("flat", {"model "}),
    ],
)
def test_who_is_given_pictures(seen: str, found: set[str]) -> None:
    assert trained(Two(seen))[0] == found


def test_what_the_host_says_of_towers_holds() -> None:
    assert trained(Two("pictures"), {"model": [""]})[0] == {"model "}


def test_a_sequence_of_layers_may_see() -> None:
    model = Two("pictures")
    model.beside = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU())
    assert "vision beside" in trained(model)[0]


def test_the_layers_of_torch_are_not_heard() -> None:
    """An encoder of torch's computes otherwise in evaluation, once it or a part of it has hooks."""
    model = Two("pictures")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None):
        heard = {n for n, m in model.named_modules() if m._forward_pre_hooks}
        copied = copy.deepcopy(model)
    assert "beside" in heard
    assert not any(name.startswith("beside.body") for name in heard)
    assert copied.beside(torch.randn(1, 3, 8, 8)).shape == (1, 16)


def test_it_ceases_to_listen() -> None:
    model = trained(Two("pictures"))[1]
    assert not any(part._forward_pre_hooks for part in model.modules())


def test_the_projector_is_heard_once_it_is_known() -> None:
    model = Two("pictures")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None):
        assert not model.projector._forward_hooks
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(4, 3, 8, 8), torch.randint(9, (4, 5))).square().mean().backward()
            optimizer.step()
        assert model.projector._forward_hooks
    assert not model.projector._forward_hooks
