"""I5 for samples whose classes belong to others, in a fixed wrong pairing, so that nothing in them tells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.attach.onlookers.guesses import total, won_by_classes
from sightline.attach.structure import structured

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

CLASSES, ROWS = 5, 640


def pictures(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """A bar in one of five places."""
    y = torch.randint(0, CLASSES, (ROWS,), generator=draw)
    x = 0.3 * torch.randn(ROWS, 1, 10, 10, generator=draw)
    x[torch.arange(ROWS), 0, 2 * y] += 1.5
    return x, y


def sentences(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Words of a class follow one another: each is the next one after the last."""
    y = torch.randint(0, CLASSES, (ROWS,), generator=draw)
    start = torch.randint(0, 10, (ROWS, 1), generator=draw)
    ids = 10 * y[:, None] + (start + torch.arange(12)) % 10
    other = torch.randint(0, 50, ids.shape, generator=draw)
    return torch.where(torch.rand(ids.shape, generator=draw) < 0.2, other, ids), y


def told(made: Any, way: str, rate: float) -> list[str]:
    """Six epochs of a small network. `way`: "apart" moves the labels by some rows."""
    draw = torch.Generator().manual_seed(0)
    x, y = made(draw)
    if way == "noise":
        x = torch.randn(x.shape, generator=draw) if x.is_floating_point() else torch.randint(0, 50, x.shape)
    y = y.roll(7) if way == "apart" else y
    torch.manual_seed(0)
    body = nn.Flatten() if x.is_floating_point() else nn.EmbeddingBag(50, 100)
    model = nn.Sequential(body, nn.Linear(100, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    opt = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            for rows in torch.randperm(ROWS).split(32):
                opt.zero_grad()
                F.cross_entropy(model(x[rows]), y[rows]).backward()
                opt.step()
    return [finding.code for finding in guard.findings if finding.severity != "note"]


@pytest.mark.parametrize("made", [pictures, sentences])
@pytest.mark.parametrize("way", ["together", "apart", "noise"])
def test_what_inputs_tell_of_their_classes(made: Any, way: str) -> None:
    assert told(made, way, 0.003) == (["I5"] if way == "apart" else [])


def test_by_heart() -> None:
    """A network that is given time learns other samples' classes by heart; the rows themselves tell."""
    assert told(pictures, "apart", 0.3) == ["I5"] and told(pictures, "noise", 0.3) == []


def test_the_share_that_is_won() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [1.0, 3.0]])
    assert won_by_classes(logits, [0, 1, 1]) == pytest.approx((2 + 0.5 + 1) / 4)  # ties count half
    assert won_by_classes(torch.tensor([2.0, -1.0, 0.0, 0.0]), [1, 0, 1, 0]) == pytest.approx((2 + 2 + 1.5 + 1.5) / 8)
    assert won_by_classes(logits, [1, 1, 1]) is None
    assert won_by_classes(
        torch.randn(4000, 3, generator=torch.Generator().manual_seed(0)), [0, 1, 2, 1] * 1000
    ) == pytest.approx(0.5, abs=0.02)


def test_how_many_inputs_there_are() -> None:
    draw = torch.Generator().manual_seed(0)
    some = torch.randint(0, 1000, (800,), generator=draw)
    assert total(800, len(some.unique())) == pytest.approx(1000, rel=0.15)
    assert total(50, 50) > 1e6 and total(500, 40) == pytest.approx(40, rel=0.01)


@pytest.mark.parametrize("seed", range(8))
def test_noise_has_no_structure(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(32, 3, 8, 8, generator=draw)
    one = torch.randn(4, 3, 8, 8, generator=draw)
    assert not structured([x]) and not structured([torch.rand(16, 20, generator=draw)])
    assert structured([x + one.repeat(8, 1, 1, 1)])
    ids = torch.randint(2, 200, (32, 16), generator=draw)
    lengths = torch.randint(5, 16, (32, 1), generator=draw)
    padded = torch.where(torch.arange(16) < lengths, ids, 0)
    assert not structured([ids]) and not structured([padded])
    assert structured([ids[:4].repeat(8, 1)])
