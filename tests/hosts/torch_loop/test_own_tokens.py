"""L3 through the door, without a tokenizer that anybody could ask: is the end of the rows taught?"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

import sightline

END, PAD = 0, 1


class Next(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.rnn, self.out = nn.Embedding(30, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 30)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.table(ids))[0])


def rows(lengths: list[int]) -> list[Tensor]:
    return [torch.randint(2, 30, (length,)) for length in lengths]


def batch(kind: str, step: int) -> tuple[Tensor, Tensor]:
    """Texts of 3 to 12 tokens, and labels that leave out two tokens of a prompt and the padding."""
    texts = rows([3, 5, 12 if step % 2 else 9, 7])
    end = torch.tensor([END])
    texts = texts if kind in ("no end", "fixed width") else [torch.cat([text, end]) for text in texts]
    fill = PAD if kind == "own pad" else END
    ids = pad_sequence(texts, batch_first=True, padding_value=fill)
    ids = F.pad(ids, (0, 13 - ids.shape[1]), value=fill) if kind == "fixed width" else ids
    labels = ids.masked_fill(ids == fill, -100)
    if kind == "first end taught":
        labels = torch.stack(
            [row.index_fill(0, torch.tensor([len(t) - 1]), END) for row, t in zip(labels, texts, strict=True)]
        )
    labels[:, :2] = -100
    return ids, labels


def found(kind: str, cut: bool) -> list[str]:
    model = Next()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for step in range(5):
            ids, labels = batch(kind, step)
            logits = model(ids[:, :-1]) if cut else model(ids)[:, :-1]
            loss = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
            opt.zero_grad()
            loss.backward()
            opt.step()
    return [finding.code for finding in guard.findings if finding.severity != "note"]


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("kind", ["pad is end", "own pad", "first end taught", "no end", "fixed width"])
def test_the_end_that_is_hidden_with_the_padding(kind: str, cut: bool) -> None:
    assert found(kind, cut) == (["L3"] if kind == "pad is end" else [])
