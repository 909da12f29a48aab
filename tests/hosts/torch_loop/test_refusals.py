"""Models that check what they are given: a probe's batch is refused, and the guard goes on watching (I5 here)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

import sightline


class Reader(nn.Module):
    """Wants its texts sorted by length, the longest first."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.rnn, self.out = nn.Embedding(30, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 1)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.words(x), lengths, batch_first=True)
        return self.out(self.rnn(packed)[1][0][0]).squeeze(1)


@pytest.mark.parametrize("faulty", [True, False])
def test_texts_sorted_without_their_labels(faulty: bool) -> None:
    torch.manual_seed(0)
    texts = [torch.randint(1, 30, (int(torch.randint(3, 12, ())),)) for _ in range(64)]
    labels = [float(text.sum() % 2) for text in texts]
    model = Reader()
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            for rows in torch.randperm(64).split(16):
                order = sorted(rows.tolist(), key=lambda row: -len(texts[row]))
                taught = rows.tolist() if faulty else order
                lengths = torch.tensor([len(texts[row]) for row in order])
                outputs = model(pad_sequence([texts[row] for row in order], batch_first=True), lengths)
                opt.zero_grad()
                binary_cross_entropy_with_logits(outputs, torch.tensor([labels[row] for row in taught])).backward()
                opt.step()
    assert [finding.code for finding in guard.findings] == (["I5"] if faulty else [])
