"""L2 through the door: decoders that are taught to pad, and two texts whose paddings have nothing in common."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F

import sightline

WIDE = 9


class Translator(nn.Module):
    """torch's transformer, as its tutorials use it: masks are made inside, or given; batch first, or places first."""

    def __init__(self, *, padding_idx: int | None, first: bool) -> None:
        super().__init__()
        self.first = first
        self.source, self.target = (nn.Embedding(20, 16, padding_idx=padding_idx) for _ in range(2))
        self.place, self.out = nn.Embedding(64, 16), nn.Linear(16, 20)
        self.core = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=first)

    def forward(self, src: Tensor, tgt: Tensor, src_pad: Tensor | None = None, tgt_pad: Tensor | None = None) -> Tensor:
        count = tgt.shape[1 if self.first else 0]
        masks = [(ids == 0 if self.first else (ids == 0).T) for ids in (src, tgt)]
        given = [made if told is None else told for made, told in zip(masks, (src_pad, tgt_pad), strict=True)]
        places = [self.place(torch.arange(ids.shape[1 if self.first else 0])) for ids in (src, tgt)]
        places = places if self.first else [one[:, None] for one in places]
        return self.out(
            self.core(
                self.source(src) + places[0],
                self.target(tgt) + places[1],
                tgt_mask=torch.ones(count, count).triu(1).bool(),
                src_key_padding_mask=given[0],
                tgt_key_padding_mask=given[1],
                memory_key_padding_mask=given[0],
            )
        )


def texts(longest: int, end: int | None) -> Tensor:
    """(16, longest): 3 to `longest` words, an end, and padding of 0."""
    length = torch.randint(3, longest + 1, (16, 1))
    ids = torch.randint(3, 20, (16, longest)).masked_fill(torch.arange(longest) >= length, 0)
    return ids if end is None else ids.masked_fill(torch.arange(longest) == length - 1, end)


def found(guard: Any) -> list[str]:
    return [f"{f.code}: {f.message}" for f in guard.findings if f.severity != "note"]


@pytest.mark.parametrize("faulty", [True, False])
@pytest.mark.parametrize("style", ["padding_idx", "masks given", "places first"])
def test_a_translator(style: str, faulty: bool) -> None:
    torch.manual_seed(0)
    first = style != "places first"
    model = Translator(padding_idx=0 if style == "padding_idx" else None, first=first)
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            src, tgt = texts(6, None), texts(WIDE, 1)
            masks = [] if style == "padding_idx" else [src == 0, tgt[:, :-1] == 0]
            read, wanted = tgt[:, :-1], tgt[:, 1:]
            if not first:
                src, read, wanted = src.T, read.T, wanted.T
            logits = model(src, read, *masks)
            loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100 if faulty else 0)
            opt.zero_grad()
            loss.backward()
            opt.step()
    told = found(guard)
    assert len(told) == faulty and all(one.startswith("L2") and "padding tokens are supervised" in one for one in told)


@pytest.mark.parametrize("padding", [-100, 0])
@pytest.mark.parametrize("ended", [True, False])
def test_answers_of_one_length(ended: bool, padding: int) -> None:
    """Dates, say, that are filled up: where all end in one mark before, what follows is padding, and no class."""
    torch.manual_seed(0)
    size = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 20}
    model = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**size, pad_token_id=0, decoder_start_token_id=0)
    )
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            labels = torch.randint(3, 20, (16, WIDE))
            labels[:, 5:] = padding
            if ended:
                labels[:, 5] = 1
            opt.zero_grad()
            model(input_ids=torch.randint(3, 20, (16, 6)), labels=labels).loss.backward()
            opt.step()
    assert [one for one in found(guard) if one.startswith("L2")] == (
        ["L2: 48 padding tokens are supervised"] if ended and padding == 0 else []
    )


@pytest.mark.parametrize("padding", [-100, 0])
@pytest.mark.parametrize("longest", [5, WIDE])
def test_sources_and_labels_of_one_width(longest: int, padding: int) -> None:
    """T5 with both sides padded to one width: where a source is padding, a label may be a word."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "d_model": 16, "d_kv": 4, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    model: Any = transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, decoder_start_token_id=0))
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            src, tgt = F.pad(texts(longest, None), (0, WIDE - longest)), texts(WIDE, 1)
            labels = tgt.masked_fill(tgt == 0, padding)
            loss = model(input_ids=src, attention_mask=(src > 0).long(), labels=labels).loss
            opt.zero_grad()
            loss.backward()
            opt.step()
    told = found(guard)
    assert len(told) == (padding == 0) and all("padding tokens are supervised" in one for one in told)


class Tagger(nn.Module):
    """A class for each word; its padding is known by the embedding."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(20, 16, padding_idx=0), nn.Linear(32, classes)
        self.rnn = nn.LSTM(16, 16, batch_first=True, bidirectional=True)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.rnn(self.words(ids))[0])


@pytest.mark.parametrize("fill", ["ignored", "a class of its own", "masked by hand", "a class of words"])
@pytest.mark.parametrize("told", [True, False], ids=["attention mask", "padding_idx"])
def test_taggers(told: bool, fill: str) -> None:
    """Labels of tokens that are filled up: with a class that words have too, padding teaches it."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    bert = transformers.BertForTokenClassification(transformers.BertConfig(**sizes, intermediate_size=32, num_labels=4))
    model: Any = bert if told else Tagger(4)
    opt = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            ids = texts(WIDE, None)
            filled = {"ignored": -100, "a class of its own": 3}.get(fill, 0)
            labels = (ids % 3).masked_fill(ids == 0, filled)
            logits = model(input_ids=ids, attention_mask=(ids > 0).long()).logits if told else model(ids)
            losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
            kept = (ids > 0 if fill == "masked by hand" else labels != -100).flatten()
            opt.zero_grad()
            (losses * kept).sum().div(kept.sum()).backward()
            opt.step()
    assert [one[:2] for one in found(guard)] == (["L2"] if fill == "a class of words" else [])
