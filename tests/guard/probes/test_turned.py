"""Masks that say the reverse, so that words see padding in place of each other; and models that do as they should."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from sightline.guard.checks.evaluation.wrong_padding_side import find
from sightline.guard.probes.call import Call
from sightline.guard.probes.turned import padding_of, turned

LENGTHS = torch.tensor([5, 8, 9, 12, 12, 7])
MASK = torch.arange(12) < LENGTHS[:, None]
IDS = torch.randint(1, 50, (6, 12), generator=torch.Generator().manual_seed(0)).masked_fill(~MASK, 0)


class Reader(nn.Module):
    """Embeds, mixes, and keeps the mean of the words. `sense`: what becomes of the mask on its way to the mixing."""

    def __init__(self, how: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.how, self.embed, self.head = how, nn.Embedding(50, 16, padding_idx=0), nn.Linear(16, 3)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.qkv, self.out, self.gru = nn.Linear(16, 48), nn.Linear(16, 16), nn.GRU(16, 8, 1, True, True, 0, True)

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embed(input_ids)
        real = input_ids != 0 if mask is None else mask
        if "layers" in self.how:
            x = self.layers(x, src_key_padding_mask=real if "turned" in self.how else ~real)
        elif "own attention" in self.how:
            q, k, v = self.qkv(x).chunk(3, dim=-1)
            may = (~real if "turned" in self.how else real)[:, None, :]
            x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=may))
        elif self.how == "recurrent":
            x = self.gru(x)[0]
        elif self.how == "knows the length":
            x = self.out(x) * real.sum(1)[:, None, None]
        return self.head((x * real[..., None]).sum(1) / real.sum(1, keepdim=True))


@pytest.mark.parametrize("how", ["turned layers", "turned own attention"])
@pytest.mark.parametrize("mask", [MASK, None], ids=["a mask is given", "a mask is made"])
def test_words_see_padding_alone(how: str, mask: Tensor | None) -> None:
    call = Call(Reader(how), (IDS, mask) if mask is not None else (IDS,))
    real = padding_of(call)
    assert real is not None and torch.equal(real, MASK)
    seen = turned(call, real, 3)
    assert seen is not None and seen.turned and seen.rows == 4
    found = find(seen)
    assert found is not None and "turned round" in found.message and "~mask" in found.fix


@pytest.mark.parametrize("how", ["layers", "own attention", "recurrent", "knows the length", "a bag of words"])
def test_words_see_words_or_nothing(how: str) -> None:
    seen = turned(Call(Reader(how), (IDS, MASK)), MASK, 3)
    assert seen is None if how == "a bag of words" else seen is not None and not seen.turned


def test_a_model_of_transformers() -> None:
    torch.manual_seed(0)
    small = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    model = BertModel(small)
    right, wrong = (Call(model, (), {"input_ids": IDS, "attention_mask": mask}) for mask in (MASK, ~MASK))
    seen, reverse = turned(right, MASK, 0), turned(wrong, MASK, 0)
    assert seen is not None and not seen.turned and reverse is not None and reverse.turned


def test_what_cannot_be_told() -> None:
    assert padding_of(Call(Reader("layers"), (IDS.masked_fill(IDS.eq(IDS[0, 0]), 0),))) is None  # 0 is a word, too
    assert padding_of(Call(Reader("layers"), (IDS[3:5],))) is None
    assert turned(Call(Reader("turned layers"), (IDS[2:5], MASK[2:5])), MASK[2:5], 0) is None  # one padded row
