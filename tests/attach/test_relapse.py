"""Evaluations whose loop switches train mode on again, and passes in train mode that are meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

import sightline
from sightline.guard.catalogue import load, page

Batches = list[Tensor]


class Writer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out

    def generate(self, x: Tensor, *, restore: bool) -> Tensor:
        mode = self.training
        self.eval()
        out = self.body(x).argmax(-1)
        self.train(mode if restore else True)
        return out


def careless(model: Writer, batches: Batches) -> None:
    model.eval()
    for x in batches:
        model(x).argmax(-1)
        model.generate(x, restore=False)


def careful(model: Writer, batches: Batches) -> None:
    model.eval()
    for x in batches:
        model(x).argmax(-1)
        model.generate(x, restore=True)


def drawn(model: Writer, batches: Batches) -> None:
    """An answer, and then how far answers with dropout are apart."""
    for x in batches:
        for mode in (False, True, True, True):
            model.train(mode)
            model(x)


def compared(model: Writer, batches: Batches) -> None:
    """The same loop in either mode."""
    for mode in (False, True):
        model.train(mode)
        for x in batches:
            model(x)


def gone_on(model: Writer, batches: Batches) -> None:
    """What comes after the evaluation is another line's: labels for what has none, in train mode."""
    model.eval()
    for x in batches:
        model(x)
    model.train()
    for x in batches:
        model(x + 1.0)


def averaged(model: Writer, batches: Batches) -> None:
    """Statistics are taken anew before and after the model is judged, as of weights that were averaged in place."""
    for x in batches[:2]:
        update_bn([x, x], model)
        model.eval()
        model(x)


def codes(judge: Callable[[Writer, Batches], None]) -> set[str]:
    torch.manual_seed(0)
    model = Writer()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    held = [torch.randn(5, 4) for _ in range(5)]
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("T3"),)), budget=1.0) as guard:
        for _ in range(3):
            model.train()
            for _ in range(4):
                optimizer.zero_grad()
                F.cross_entropy(model(torch.randn(5, 4)), torch.arange(5) % 3).backward()
                optimizer.step()
            with torch.no_grad():
                judge(model, held)
    return {finding.code for finding in guard.findings}


def test_a_loop_that_calls_what_ends_in_train_mode() -> None:
    assert codes(careless) == {"T3"}


@pytest.mark.parametrize("judge", [careful, drawn, compared, gone_on, averaged])
def test_modes_that_are_meant(judge: Callable[[Writer, Batches], None]) -> None:
    assert codes(judge) == set()
