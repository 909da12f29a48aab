"""A language model that is made from nothing, of whole conversations, and what goes on with it."""

from __future__ import annotations

import pytest

from tests.attach.script.conftest import Codes

SCRIPT = """
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

WORDS = ["<pad>", "USER:", "ASSISTANT:", "</s>", *map(str, range(12))]
core = Tokenizer(models.WordLevel({{word: n for n, word in enumerate(WORDS)}}, unk_token="<pad>"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="</s>")


class Writer(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.reads = nn.Embedding(16, 24), nn.GRU(24, 24, batch_first=True)
        self.says = nn.Linear(24, 16)

    def forward(self, input_ids, labels=None):
        logits = self.says(self.reads(self.words(input_ids))[0])
        return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits


def teach(model, alone, steps=20):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(steps):
        rows = torch.randint(12, (8, 4)).tolist()
        texts = [f"USER: {{a}} {{b}} {{c}} ASSISTANT: {{a}} {{b}} </s>" for a, b, c, _ in rows]
        ids = tokenizer(texts, return_tensors="pt").input_ids
        labels = ids.clone()
        if alone:
            labels[:, :5] = -100
        loss = model(input_ids=ids, labels=labels)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


torch.manual_seed(0)
first, second = Writer(), Writer()
teach(first, alone={first})
if {goes_on}:
    second.load_state_dict(first.state_dict())
if {again} is not None:
    teach(second, alone={again})
"""


def told(codes: Codes, *, first: bool = False, goes_on: bool = True, again: bool | None = True) -> bool:
    return ("Writer", "L2") in codes(SCRIPT.format(first=first, goes_on=goes_on, again=again))


@pytest.mark.parametrize(
    "later", [{"goes_on": False}, *(pytest.param({"again": way}, marks=pytest.mark.slow) for way in (False, None))]
)
def test_whole_conversations_are_told_at_the_end(codes: Codes, later: dict[str, bool | None]) -> None:
    """Where nothing comes after it, where the same mask is forgotten again, and where another model learns answers."""
    assert told(codes, **later)


@pytest.mark.parametrize("first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_answers_alone_come_after_it(codes: Codes, first: bool) -> None:
    assert not told(codes, first=first)
