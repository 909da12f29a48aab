"""I4 through the door: what is read in columns, (time, batch), and rows that a layer takes for columns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import sightline

KINDS, COLUMNS, STEPS = 23, 10, 12


class Reader(nn.Module):
    """A recurrent model of (T, B) ids, as torch's layers have them by default."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.core, self.head = nn.Embedding(KINDS, 16), nn.GRU(16, 24), nn.Linear(24, KINDS)

    def forward(self, ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden, state = self.core(self.embed(ids), state)
        return self.head(hidden), state


class Tagger(nn.Module):
    """Attention over (T, B) ids: a class for each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(KINDS, 16), nn.Linear(16, 3)
        self.core = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.head(self.core(self.embed(ids), mask))


class Series(nn.Module):
    """Of (T, B, 2) measurements, one number for each series, or for each moment."""

    def __init__(self, each: bool) -> None:
        super().__init__()
        self.core, self.head, self.each = nn.LSTM(2, 16), nn.Linear(16, 1), each

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.core(x)[0]
        return self.head(hidden if self.each else hidden[-1])


def told(net: nn.Module, batches: Any, loss_of: Any) -> list[str]:
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    with sightline.attach(net, opt, batches if isinstance(batches, DataLoader) else None, on_finding=None) as guard:
        for _ in range(2):
            for x, y in batches:
                opt.zero_grad()
                loss_of(net, x, y).backward()
                opt.step()
    return [f.code for f in guard.findings if f.code == "I4"]


def stream(rows: bool) -> list[tuple[Tensor, Tensor]]:
    text = torch.randint(0, KINDS, (COLUMNS, 8 * STEPS + 1), generator=torch.Generator().manual_seed(0))
    cuts = [(text[:, at : at + STEPS], text[:, at + 1 : at + STEPS + 1]) for at in range(0, 8 * STEPS, STEPS)]
    return cuts if rows else [(x.t().contiguous(), y.t().contiguous()) for x, y in cuts]


@pytest.mark.parametrize("kept", [False, True])
def test_columns_of_a_stream(kept: bool) -> None:
    torch.manual_seed(0)
    state: Tensor | None = None

    def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        nonlocal state
        logits, state = net(x, state if kept else None)
        state = state.detach()
        return F.cross_entropy(logits.flatten(0, 1), y.flatten())

    assert told(Reader(), stream(rows=False), loss_of) == []


def test_rows_that_are_taken_for_columns() -> None:
    torch.manual_seed(0)
    words = told(Reader(), stream(rows=True), lambda net, x, y: F.cross_entropy(net(x)[0].flatten(0, 1), y.flatten()))
    assert words == ["I4"]


@pytest.mark.parametrize("rows", [False, True])
def test_tags_of_words(rows: bool) -> None:
    """Whether dimension 0 is the batch, a loader tells."""
    torch.manual_seed(0)
    ids = torch.randint(0, KINDS, (64, STEPS))
    loader = DataLoader(TensorDataset(ids, ids % 3), 8, shuffle=True)

    def loss_of(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        x, y = (x, y) if rows else (x.t(), y.t())
        return F.cross_entropy(net(x).flatten(0, 1), y.flatten())

    assert told(Tagger(), loader, loss_of) == (["I4"] if rows else [])


def test_words_that_see_those_before_them() -> None:
    """The mask is of all places of time by all."""
    torch.manual_seed(0)
    batches = [(ids, ids.cumsum(0) % 3) for ids in torch.randint(0, KINDS, (6, STEPS, 8))]
    mask = nn.Transformer.generate_square_subsequent_mask(STEPS)
    assert told(Tagger(), batches, lambda net, x, y: F.cross_entropy(net(x, mask).flatten(0, 1), y.flatten())) == []


@pytest.mark.parametrize("each", [False, True])
def test_series_in_columns(each: bool) -> None:
    """Of twice as many moments as there are series: none is lost where one number comes out for each series."""
    torch.manual_seed(0)
    batches = [(torch.randn(16, 8, 2), torch.randn(16, 8, 1)) for _ in range(6)]
    assert told(Series(each), batches, lambda net, x, y: F.mse_loss(net(x), y if each else y[-1])) == []


def test_series_that_are_lost() -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(16, 6, 2), torch.randn(8, 1)) for _ in range(6)]

    class Halved(Series):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.transpose(0, 1))[::2]

    assert told(Halved(each=False), batches, lambda net, x, y: F.mse_loss(net(x), y)) == ["I4"]
