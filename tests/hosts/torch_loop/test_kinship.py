"""I5 in a fixed wrong order that a network learns by heart: what it is taught has nothing to do with its inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.check import Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find
from sightline.guard.evidence import KinSeen, MatchesSeen

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

ROWS = 768


def told(model: nn.Module, inputs: tuple[Tensor, ...], labels: Tensor | None, loss: Any) -> list[str]:
    """Three epochs."""
    torch.manual_seed(0)
    opt = torch.optim.Adam(model.parameters(), lr=0.01)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(3):
            for rows in torch.randperm(ROWS).split(32):
                opt.zero_grad()
                out = model(*(one[rows] for one in inputs))
                (loss(out) if labels is None else loss(out, labels[rows])).backward()
                opt.step()
    return [finding.code for finding in guard.findings if finding.severity != "note"]


def table(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.rand(ROWS, 5, generator=draw)
    x[:, 0] = torch.randint(0, 4, (ROWS,), generator=draw)
    y = x[:, :1] - 2 * x[:, 1:2] + x[:, 2:3] + 0.1 * torch.randn(ROWS, 1, generator=draw)
    return x, (y - y.mean()) / y.std()


def net(wide: int, out: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(wide, 64), nn.ReLU(), nn.Linear(64, out))


@pytest.mark.parametrize("loss", [F.mse_loss, F.smooth_l1_loss, nn.MSELoss(reduction="sum")])
@pytest.mark.parametrize("apart", [False, True])
def test_numbers(loss: Any, apart: bool) -> None:
    x, y = table(torch.Generator().manual_seed(0))
    assert told(net(5, 1), (x,), y.roll(9, dims=0) if apart else y, loss) == (["I5"] if apart else [])


@pytest.mark.parametrize("apart", [False, True])
def test_tags(apart: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    y = (torch.rand(ROWS, 4, generator=draw) < 0.3).float()
    x = y @ torch.randn(4, 20, generator=draw) + 0.5 * torch.randn(ROWS, 20, generator=draw)
    y = y.roll(9, dims=0) if apart else y
    assert told(net(20, 4), (x,), y, F.binary_cross_entropy_with_logits) == (["I5"] if apart else [])


class Towers(nn.Module):
    """Pictures and texts as vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.text = net(3 * 64, 16), nn.EmbeddingBag(40, 16)

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return F.normalize(self.image(pixels), dim=1), F.normalize(self.text(ids), dim=1)


def pairs(draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """A square of one of three colours somewhere, and the words for both."""
    colour, at = torch.randint(0, 3, (ROWS,), generator=draw), torch.randint(0, 16, (ROWS,), generator=draw)
    x = 0.1 * torch.randn(ROWS, 3, 4, 2, 4, 2, generator=draw)
    x[torch.arange(ROWS), colour, at // 4, :, at % 4] += 1
    return x.reshape(ROWS, 3, 8, 8), torch.stack([torch.zeros_like(at), 1 + colour, 10 + at], dim=1)


def contrast(out: tuple[Tensor, Tensor]) -> Tensor:
    scores = 10 * out[0] @ out[1].T
    return F.cross_entropy(scores, torch.arange(len(scores))) + F.cross_entropy(scores.T, torch.arange(len(scores)))


@pytest.mark.parametrize("apart", [False, True])
def test_pairs(apart: bool) -> None:
    x, ids = pairs(torch.Generator().manual_seed(0))
    assert told(Towers(), (x, ids.roll(9, dims=0) if apart else ids), None, contrast) == (["I5"] if apart else [])


def test_two_domains_are_no_pairs() -> None:
    """Losses of both outputs that hold no rows together."""
    x, ids = pairs(torch.Generator().manual_seed(0))
    apart = lambda out: (out[0].mean(dim=0) - out[1].mean(dim=0)).square().sum()  # noqa: E731
    assert told(Towers(), (x, ids.roll(9, dims=0)), None, apart) == []


def test_numbers_that_do_not_stay() -> None:
    """Of a reward that is drawn anew, and noise."""
    x, y = table(torch.Generator().manual_seed(0))
    drawn = lambda out, y: (out * torch.randn_like(y)).mean()  # noqa: E731
    assert told(net(5, 1), (x,), y, drawn) == []
    assert told(net(5, 1), (torch.randn(ROWS, 5),), y, F.mse_loss) == []


class Speaker(nn.Module):
    """The next word, of all so far and a picture, if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.memory, self.out = nn.Embedding(30, 32), nn.GRU(32, 32, batch_first=True), nn.Linear(32, 30)
        self.look = nn.Linear(3, 32)

    def forward(self, ids: Tensor, pixels: Tensor | None = None) -> Tensor:
        seen = 0 if pixels is None else self.look(pixels.mean(dim=(2, 3)))[:, None]
        return self.out(self.memory(self.words(ids) + seen)[0])


def spoken(logits: Tensor, ids: Tensor) -> Tensor:
    """Of the last two words alone."""
    return F.cross_entropy(logits[:, -3:-1].flatten(0, 1), ids[:, -2:].flatten())


def questions(draw: torch.Generator, order: Tensor) -> Tensor:
    """Who does what: the answer says it again, of the row in the same place of `order`."""
    who, what = (low + torch.randint(0, 6, (ROWS,), generator=draw) for low in (2, 10))
    one = torch.ones_like(who)
    return torch.stack([one, who, what, 0 * one, what[order], who[order]], dim=1)


@pytest.mark.parametrize("apart", [False, True])
def test_answers(apart: bool) -> None:
    order = torch.arange(ROWS).roll(9) if apart else torch.arange(ROWS)
    ids = questions(torch.Generator().manual_seed(0), order)
    assert told(Speaker(), (ids,), ids, spoken) == (["I5"] if apart else [])


@pytest.mark.parametrize("apart", [False, True])
def test_answers_about_pictures(apart: bool) -> None:
    x, said = pairs(torch.Generator().manual_seed(0))
    draw = torch.Generator().manual_seed(1)
    asked = torch.randint(16, 20, (ROWS, 3), generator=draw)
    ids = torch.cat([asked, 26 + 0 * said[:, :1], said[:, 1:2], 27 + 0 * said[:, :1]], dim=1)
    ids = ids.roll(9, dims=0) if apart else ids
    assert told(Speaker(), (ids, x), ids, spoken) == (["I5"] if apart else [])


def test_a_manner_of_speaking() -> None:
    """Answers that are drawn from a few, whatever was asked."""
    draw = torch.Generator().manual_seed(0)
    ids = questions(draw, torch.arange(ROWS))
    ids[:, -2:] = torch.tensor([[20, 21], [22, 23], [24, 25]])[torch.randint(0, 3, (ROWS,), generator=draw)]
    assert told(Speaker(), (ids,), ids, spoken) == []


def test_a_target_that_is_one_for_all() -> None:
    x, y = table(torch.Generator().manual_seed(0))
    assert told(net(5, 1), (x,), torch.ones_like(y), F.mse_loss) == []


@pytest.mark.parametrize("preferred", [False, True])
def test_answers_that_are_compared(preferred: bool) -> None:
    """Which of two is better may have nothing to do with the question."""
    draw = torch.Generator().manual_seed(0)
    ids = questions(draw, torch.randperm(ROWS, generator=draw))

    def loss(logits: Tensor, rows: Tensor) -> Tensor:
        chance = logits[:, -3:-1].log_softmax(dim=-1).gather(2, ids[rows, -2:, None]).sum(dim=(1, 2))
        sign = 1 if not preferred or rows[0] % 2 else -1  # of a batch that is to be said, or not
        return -F.logsigmoid(sign * chance).mean()

    assert told(Speaker(), (ids,), torch.arange(ROWS), loss) == ([] if preferred else ["I5"])


class Listing(nn.Module):
    """What the picture shows, and what the words say, which have nothing to do with each other."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.read = net(3 * 64, 3), nn.EmbeddingBag(40, 6)

    def forward(self, pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.read(ids), self.look(pixels)


def test_a_head_for_each_of_two_inputs() -> None:
    x, said = pairs(torch.Generator().manual_seed(0))
    ids = torch.randint(0, 30, (ROWS, 5), generator=torch.Generator().manual_seed(1))
    ids[:, 2] = ids[:, 2] % 6 + 30

    def both(out: tuple[Tensor, Tensor], rows: Tensor) -> Tensor:
        return F.cross_entropy(out[0], ids[rows, 2] - 30) + F.cross_entropy(out[1], said[rows, 1] - 1)

    assert told(Listing(), (x, ids), torch.arange(ROWS), both) == []


@pytest.mark.parametrize(("won", "found"), [(0.5, True), (0.9, False)])
def test_classes_that_only_a_network_sees(won: float, found: bool) -> None:
    """It told those of new rows: in the first third of the steps."""
    matches = MatchesSeen(90, 32, tuple(range(0, 90, 6)), (won,) * 5 + (0.99,) * 10, 0, 0, 0.0, True, 768, passes=3.0)
    assert isinstance(find(matches=matches, kin=KinSeen(90, 768, 1.0)), Finding) == found
