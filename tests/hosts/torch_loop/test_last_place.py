"""L1 through the door: rows that are read at the last place of a batch, which is padding for most of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import sightline

NARROW = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def decoder() -> Any:
    torch.manual_seed(0)
    return transformers.LlamaModel(transformers.LlamaConfig(**NARROW, num_key_value_heads=4, vocab_size=40))


def encoder() -> Any:
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**NARROW, vocab_size=40), add_pooling_layer=False)


class Embedder(nn.Module):
    """A backbone that keeps its states to itself."""

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor], backbone: nn.Module, *, frozen: bool = False) -> None:
        super().__init__()
        self.backbone, self.head, self.read = backbone.requires_grad_(not frozen), nn.Linear(32, 16), read

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        return F.normalize(self.head(self.read(states, mask)), dim=-1)


def last(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, -1]


def last_real(states: Tensor, mask: Tensor) -> Tensor:
    return states[torch.arange(len(states)), mask.sum(1) - 1]


def mean(states: Tensor, mask: Tensor) -> Tensor:
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def first(states: Tensor, mask: Tensor) -> Tensor:
    return states[:, 0]


def batch(side: str) -> tuple[Tensor, Tensor]:
    """Texts of 3 to 9 tokens, and copies of them that were shuffled."""
    length = torch.randint(3, 10, (12, 1))
    place = torch.arange(9) if side == "right" else torch.arange(8, -1, -1)
    mask = (place < length).long()
    return torch.randint(3, 40, (12, 9)) * mask, mask


def found(model: nn.Module, embed: Callable[[Tensor, Tensor], Tensor], side: str) -> list[tuple[str, str]]:
    """Train on pairs of texts; all findings that are no notes."""
    opt = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(4):
            (one, mask), (two, other) = batch(side), batch(side)
            scores = embed(one, mask) @ embed(two, other).T / 0.1
            loss = F.cross_entropy(scores, torch.arange(12))
            opt.zero_grad()
            loss.backward()
            opt.step()
    return [(f.code, f.message) for f in guard.findings if f.severity != "note"]


def outside(model: Any, read: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def embed(ids: Tensor, mask: Tensor) -> Tensor:
        return F.normalize(read(model(input_ids=ids, attention_mask=mask).last_hidden_state, mask), dim=-1)

    return embed


@pytest.mark.parametrize("kept", ["by the loop", "by the model", "by a model with a frozen backbone"])
def test_a_state_that_is_read_in_the_padding(kept: str) -> None:
    if kept == "by the loop":
        model: Any = decoder()
        told = found(model, outside(model, last), "right")
    else:
        model = Embedder(last, decoder(), frozen="frozen" in kept)
        told = found(model, model, "right")
    assert [code for code, _ in told] == ["L1"] and "in the padding" in told[0][1]


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("read", "side"), [(last, "left"), (last_real, "right"), (mean, "right")])
def test_states_that_are_read_where_they_should_be(inside: bool, read: Any, side: str) -> None:
    model: Any = Embedder(read, decoder()) if inside else decoder()
    assert not found(model, model if inside else outside(model, read), side)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("read", [first, last, mean])
def test_an_encoder_may_be_read_anywhere(inside: bool, read: Any) -> None:
    model: Any = Embedder(read, encoder()) if inside else encoder()
    assert not found(model, model if inside else outside(model, read), "right")


def test_a_network_that_reads_the_padding_as_words_is_its_authors_choice() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.rnn = nn.Embedding(40, 32, padding_idx=0), nn.GRU(32, 32, batch_first=True)

        def forward(self, ids: Tensor) -> Tensor:
            return self.rnn(self.words(ids))[0]

    torch.manual_seed(0)
    model = Reads()
    assert not found(model, lambda ids, mask: model(ids)[:, -1], "right")
