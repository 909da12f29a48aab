"""L2 through the door: a decoder that moves its labels on by itself is trained on the next token, as it should be."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import sightline

KINDS = {"vocab_size": 20, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}


class Reverser(nn.Module):
    """Encoder and decoder; the decoder reads what it is to say, one place later."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(20, 16), nn.Linear(16, 20)
        self.encoder, self.decoder = nn.GRU(16, 16, batch_first=True), nn.GRU(16, 16, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        _, state = self.encoder(self.words(source))
        read = torch.cat([torch.ones_like(target[:, :1]), target[:, :-1]], dim=1)
        return self.out(self.decoder(self.words(read), state)[0])


def found(model: nn.Module, by_hand: bool) -> list[str]:
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(12):
            source = torch.randint(2, 20, (8, 9))
            target = source[:, :6].flip(1)
            opt.zero_grad()
            if by_hand:
                loss = F.cross_entropy(model(source, target).flatten(0, 1), target.flatten())
            else:
                loss = model(input_ids=source, labels=target).loss
            loss.backward()
            opt.step()
    return [finding.code for finding in guard.findings]


@pytest.mark.parametrize("by_hand", [True, False])
def test_decoders_that_shift_by_themselves(by_hand: bool) -> None:
    torch.manual_seed(0)
    t5 = transformers.T5ForConditionalGeneration(transformers.T5Config(**KINDS, decoder_start_token_id=0))
    assert not found(Reverser() if by_hand else t5, by_hand)


class Teller(nn.Module):
    """A decoder on its own: first a memory, then what it is to say, which it reads one place later, or at once."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late, self.words, self.out = late, nn.Embedding(20, 16), nn.Linear(16, 20)
        self.cell = nn.GRUCell(16, 16)

    def forward(self, memory: Tensor, target: Tensor) -> Tensor:
        state, said, token = memory, [], torch.ones_like(target[:, 0])
        for place in range(target.shape[1]):
            state = self.cell(self.words(token if self.late else target[:, place]), state)
            said.append(self.out(state))
            token = target[:, place]
        return torch.stack(said, dim=1)


class Reader(nn.Module):
    """One row of logits a token, from both sides of it or from the left alone."""

    def __init__(self, both: bool) -> None:
        super().__init__()
        self.words, self.rnn = nn.Embedding(20, 16), nn.GRU(16, 16, batch_first=True, bidirectional=both)
        self.out = nn.Linear(32 if both else 16, 20)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.words(ids))[0])


def taught(model: nn.Module, *, memory: bool, noisy: bool = False) -> list[str]:
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            right = torch.randint(2, 20, (8, 12))
            given = torch.where(torch.rand(8, 12) < 0.05, torch.randint(2, 20, (8, 12)), right) if noisy else right
            logits = model(torch.randn(8, 16), right) if memory else model(given)
            opt.zero_grad()
            F.cross_entropy(logits.flatten(0, 1), right.flatten()).backward()
            opt.step()
    return [finding.code for finding in guard.findings]


def test_a_decoder_whose_labels_come_behind_its_memory() -> None:
    torch.manual_seed(0)
    assert taught(Teller(late=True), memory=True) == []
    assert taught(Teller(late=False), memory=True) == ["L2"]


def test_who_corrects_a_text_sees_all_of_it() -> None:
    torch.manual_seed(0)
    assert taught(Reader(both=True), memory=False, noisy=True) == []
    assert taught(Reader(both=False), memory=False) == ["L2"]
