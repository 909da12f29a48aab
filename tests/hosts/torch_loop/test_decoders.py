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
