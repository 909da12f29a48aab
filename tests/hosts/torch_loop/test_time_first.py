"""I4 through the door: words that are read in columns, (time, batch), and rows that a layer takes for columns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline

KINDS, COLUMNS, STEPS = 23, 10, 12


class Reader(nn.Module):
    """A recurrent language model of (T, B) ids, as torch's layers have them by default."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.embed, self.core, self.head = nn.Embedding(KINDS, 16), kind(16, 24), nn.Linear(24, KINDS)

    def forward(self, ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        hidden, state = self.core(self.embed(ids), state)
        return self.head(hidden), state


def codes(rows: bool, kept: bool, kind: type[nn.RNNBase] = nn.GRU) -> list[str]:
    """rows: the ids are (B, T), whatever the model takes them for. kept: the state goes on from batch to batch."""
    torch.manual_seed(0)
    text = torch.randint(0, KINDS, (COLUMNS, 8 * STEPS + 1)).cummax(1).values
    ids = text if rows else text.t().contiguous()
    net, state = Reader(kind), None
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    with sightline.attach(net, opt, on_finding=None) as guard:
        for _ in range(2):
            for at in range(0, 8 * STEPS, STEPS):
                here, behind = slice(at, at + STEPS), slice(at + 1, at + STEPS + 1)
                x, y = (ids[:, here], ids[:, behind]) if rows else (ids[here], ids[behind])
                logits, state = net(x, state if kept and not rows else None)
                state = state.detach()
                opt.zero_grad()
                F.cross_entropy(logits.flatten(0, 1), y.flatten()).backward()
                opt.step()
    return [f.code for f in guard.findings if f.code == "I4"]


@pytest.mark.parametrize("kept", [False, True])
def test_columns_of_a_stream(kept: bool) -> None:
    assert codes(rows=False, kept=kept) == []


def test_rows_that_are_taken_for_columns() -> None:
    assert codes(rows=True, kept=False) == ["I4"]
