"""Texts that `pad_sequence` fills up with the end that each of them has, in batches of one width."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.utils import rnn

import sightline
from sightline.attach.filled import ENDED, OTHERS
from sightline.attach.script import filled

END, PAD = 0, 1


@pytest.fixture(autouse=True)
def _noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(rnn, "pad_sequence", rnn.pad_sequence)
    filled.install()
    yield
    ENDED.clear()
    OTHERS.clear()


def found(*, pad: int, ended: bool = True, other: bool = False) -> list[str]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(30, 16), nn.Linear(16, 30))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for step in range(6):
            texts = [torch.randint(2, 30, (length,)) for length in (3, 5, 12, 7)]
            if other and step == 0:
                rnn.pad_sequence(texts, batch_first=True, padding_value=pad)
            texts = [torch.cat([text, torch.tensor([END])]) for text in texts] if ended else texts
            ids = rnn.pad_sequence(texts, batch_first=True, padding_value=pad)
            ids = ids if ended else nn.functional.pad(ids, (0, 1), value=pad)
            logits, wanted = model(ids[:, :-1]), ids[:, 1:]
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=pad).backward()
            optimizer.step()
    return [one.code for one in guard.findings if one.severity != "note"]


def test_the_end_that_rows_are_filled_up_with() -> None:
    assert found(pad=END) == ["L3"]


@pytest.mark.parametrize("given", [{"pad": PAD}, {"pad": END, "ended": False}, {"pad": END, "other": True}])
def test_silent(given: dict[str, int]) -> None:
    assert not found(**given)
