"""I5 for batches whose collate function parts what belongs together, or means to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from sightline.attach.torch_loop import attach
from sightline.guard.probes.collated import collated

Pair = tuple[Tensor, Tensor]
DRAW = torch.Generator().manual_seed(0)
LENGTHS = torch.randint(2, 12, (32,), generator=DRAW).tolist()
ROWS: list[Any] = [(torch.randn(3, 4, 4, generator=DRAW), torch.randint(1, 99, (n,), generator=DRAW)) for n in LENGTHS]


def padded(texts: list[Tensor]) -> tuple[Tensor, list[int]]:
    return pad_sequence(texts, batch_first=True), [len(text) for text in texts]


def texts_alone(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    return torch.stack(images), *padded(sorted(texts, key=len, reverse=True))


def whole_samples(data: list[Pair]) -> Any:
    data.sort(key=lambda one: len(one[1]), reverse=True)
    images, texts = zip(*data, strict=True)
    return torch.stack(images), *padded(list(texts))


def told_the_order(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    return torch.stack(images), *padded([texts[i] for i in order]), torch.tensor(order)


def told_which_match(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    return torch.stack(images), padded(list(texts[1:] + texts[:1]))[0], torch.zeros(len(texts))


def with_others(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    return {"x": torch.stack(images), "text": padded(list(texts))[0], "other": padded(list(texts[1:] + texts[:1]))[0]}


def mixed(data: list[Pair]) -> Any:
    images, texts = zip(*data, strict=True)
    x = torch.stack(images)
    return 0.7 * x + 0.3 * x.flip(0), *padded(list(texts))


@pytest.mark.parametrize(
    "collate", [whole_samples, told_the_order, told_which_match, with_others, mixed], ids=lambda f: f.__name__
)
def test_batches_that_are_meant(collate: Callable[[list[Pair]], Any]) -> None:
    seen = collated(DataLoader(ROWS, 8, collate_fn=collate), 0)  # type: ignore[arg-type]
    assert seen is None or seen.apart == 0


@pytest.mark.parametrize("collate", [texts_alone, whole_samples], ids=lambda f: f.__name__)
def test_a_loop(collate: Callable[[list[Pair]], Any], capfd: pytest.CaptureFixture[str]) -> None:
    model: nn.Module = Captioner()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    loader: DataLoader[Any] = DataLoader(ROWS, 8, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
    with attach(model, opt, loader, on_finding=None) as guard:
        for images, texts, _ in (batch for _ in range(3) for batch in loader):
            opt.zero_grad()
            model(images, texts).square().mean().backward()
            opt.step()
    assert [one.code for one in guard.findings if one.code == "I5"] == (["I5"] if collate is texts_alone else [])
    assert capfd.readouterr() == ("", "")


class Captioner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eye, self.table = nn.Linear(48, 8), nn.Embedding(99, 8)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        seen: Tensor = self.eye(images.flatten(1))[:, None] + self.table(texts)
        return seen
