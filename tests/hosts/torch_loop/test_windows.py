"""M1 through the door: overlapping windows of a series or a text, split at random or in time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.check import Finding
from sightline.guard.checks.evaluation.train_test_leakage import find
from sightline.guard.evidence import SharedRowsSeen, TailsSeen

WIDE = 24


def told(net: nn.Module, train: Tensor, judged: Tensor, epochs: int = 3, pad: int = -100) -> list[str]:
    """Train on windows whose last number (or all numbers, of a text) is wanted."""
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    text = not train.is_floating_point()
    with sightline.attach(net, opt, on_finding=None) as guard:
        for _ in range(epochs):
            for rows in torch.randperm(len(train)).split(32):
                read, wanted = train[rows, :-1], train[rows, 1:] if text else train[rows, -1:]
                out = net(read)
                loss = (
                    F.cross_entropy(out.flatten(0, 1), wanted.flatten(), ignore_index=pad)
                    if text
                    else F.mse_loss(out, wanted)
                )
                opt.zero_grad()
                loss.backward()
                opt.step()
            with torch.no_grad():
                for rows in torch.arange(len(judged)).split(64):
                    net(judged[rows, :-1])
    return [f.code for f in guard.findings if f.severity != "note"]


def reader() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(60, 8), nn.Linear(8, 60))


def forecaster() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(WIDE, 1)


def series(count: int) -> Tensor:
    noise = torch.randn(count, generator=torch.Generator().manual_seed(3))
    return (torch.arange(count) / 9).sin() + 0.3 * noise


def split(windows: Tensor, at_random: bool) -> tuple[Tensor, Tensor]:
    order = torch.randperm(len(windows)) if at_random else torch.arange(len(windows))
    cut = int(0.8 * len(windows))
    return windows[order[:cut]], windows[order[cut:]]


@pytest.mark.parametrize("at_random", [True, False])
def test_a_series(at_random: bool) -> None:
    windows = series(600).unfold(0, WIDE + 1, 1)
    assert told(forecaster(), *split(windows, at_random)) == (["M1"] if at_random else [])


@pytest.mark.parametrize("at_random", [True, False])
def test_several_sensors_channels_first(at_random: bool) -> None:
    """(windows, channels, times), as convolutions over time want it."""
    torch.manual_seed(0)
    sensors = torch.stack([series(600), series(600).cumsum(0).sin(), series(600).flip(0)])
    net = nn.Sequential(nn.Conv1d(3, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 20, 1))
    windows, opt = sensors.unfold(1, WIDE, 1).transpose(0, 1), torch.optim.Adam(net.parameters(), lr=1e-3)
    train, judged = split(windows, at_random)
    with sightline.attach(net, opt, on_finding=None) as guard:
        for _ in range(3):
            for rows in torch.randperm(len(train)).split(32):
                opt.zero_grad()
                F.mse_loss(net(train[rows]), train[rows, 0, -1:]).backward()
                opt.step()
            with torch.no_grad():
                net(judged)
    assert [f.code for f in guard.findings if f.severity != "note"] == (["M1"] if at_random else [])


@pytest.mark.parametrize("at_random", [True, False])
def test_blocks_of_a_text(at_random: bool) -> None:
    text = torch.randint(0, 60, (4000,), generator=torch.Generator().manual_seed(4))
    assert told(reader(), *split(text.unfold(0, 33, 12), at_random)) == (["M1"] if at_random else [])


def test_the_last_window_of_each_series() -> None:
    """What is evaluated begins inside of what was trained on, and ends behind it."""
    windows = torch.stack([series(40 * 80).view(80, 40)[n].unfold(0, WIDE + 1, 1) for n in range(80)])
    assert not told(forecaster(), windows[:, :-1].flatten(0, 1), windows[:, -1])


def test_rows_that_follow_a_rule() -> None:
    """Each row goes on inside of another one, for there is no stream but a rule."""
    torch.manual_seed(0)
    rows = torch.stack([(a + b * torch.arange(WIDE + 1)) % 53 for a in range(53) for b in range(1, 6)])
    assert not told(reader(), *split(rows, True))


def test_names_that_are_filled_up() -> None:
    """Names share their endings, and the zeros behind them go on in those that are shorter."""
    draw = torch.Generator().manual_seed(6)
    rows, endings = torch.zeros(1600, 19, dtype=torch.long), torch.randint(10, 60, (6, 6), generator=draw)
    for row in rows:
        size, ending = (int(torch.randint(low, high, (), generator=draw)) for low, high in ((3, 10), (0, 6)))
        letters = torch.randint(10, 40, (size,), generator=draw)
        row[: size + 8] = torch.cat((torch.ones(1), letters, endings[ending], torch.full((1,), 2)))
    assert not told(reader(), rows[:1300], rows[1300:], epochs=1, pad=0)


def test_windows_drawn_anywhere_and_an_estimate_of_the_training_loss() -> None:
    text = torch.randint(0, 60, (1200,), generator=torch.Generator().manual_seed(5))
    torch.manual_seed(0)
    drawn = [text[at : at + WIDE + 1] for at in torch.randint(len(text) - WIDE, (480,)).tolist()]
    windows = torch.stack(drawn)
    assert not told(reader(), windows[:320], windows[320:], epochs=1)


SEEN = SharedRowsSeen(
    9, trained=400, evaluated=100, shared=0, mixed=0, complete=True, pairs=9000, twins=0, again=0.6,
    tails=TailsSeen(24, 6, judged=100, found=80, parted=0.0),
)  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "alarmed"),
    [
        (SEEN, True),
        (replace(SEEN, again=0.0, evaluated=400), True),
        (replace(SEEN, again=0.0, evaluated=50), False),
        (replace(SEEN, shared=6, pairs=10), False),
        (replace(SEEN, apart=True), False),
        (replace(SEEN, tails=TailsSeen(24, 6, judged=100, found=49, parted=0.0)), False),
        (replace(SEEN, tails=TailsSeen(24, 6, judged=15, found=15, parted=0.0)), False),
        (replace(SEEN, tails=TailsSeen(24, 12, judged=100, found=80, parted=0.1)), False),
        (replace(SEEN, tails=TailsSeen(24, 12, judged=100, found=80, parted=0.0, free=0.1)), False),
        (replace(SEEN, tails=None), False),
    ],
    ids=["fixed", "fewer", "few", "shared", "beside", "half", "short", "sentences", "rule", "none"],
)
def test_what_windows_prove(seen: SharedRowsSeen, alarmed: bool) -> None:
    assert isinstance(find(seen), Finding) == alarmed
