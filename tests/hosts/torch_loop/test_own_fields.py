"""Batches in containers and under names of the host's own: ids, labels, lengths and documents are told by their values.

L4, L1 and L2 through the door, each faulty and clean, in four ways to hand a batch over.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import make_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import sightline
from sightline.guard.probes.call import Call

Fields = dict[str, Tensor]


def as_object(fields: Fields) -> Any:
    return make_dataclass("Batch", fields)(**fields)


def as_tuple(fields: Fields) -> Any:
    return namedtuple("Batch", fields)(**fields)  # type: ignore[misc]


WAYS: dict[str, Callable[[nn.Module, Fields], Tensor]] = {
    "dict": lambda model, fields: model({"batch": fields}["batch"]),
    "dataclass": lambda model, fields: model(as_object(fields)),
    "named tuple": lambda model, fields: model(as_tuple(fields)),
    "keywords": lambda model, fields: model(**fields),
}


class Reader(nn.Module):
    """Gives `body` its fields, however they came."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, batch: Any = None, **fields: Tensor) -> Tensor:
        given = fields or (batch if isinstance(batch, dict) else getattr(batch, "__dict__", None) or batch._asdict())
        return self.body(**given)


class Attention(nn.Module):
    """One layer of attention over documents that are packed in rows; `apart`: they do not see each other."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.apart, self.table, self.place = apart, nn.Embedding(30, 16), nn.Embedding(16, 16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 30)

    def forward(self, where: Tensor, words: Tensor, story: Tensor, **other: Tensor) -> Tensor:
        may = torch.ones(words.shape[1], words.shape[1]).tril().bool()
        may = may & (story[:, :, None] == story[:, None]) if self.apart else may.expand(len(words), -1, -1)
        q, k, v = self.qkv(self.table(words) + self.place(where)).chunk(3, dim=-1)
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=may))


class Scorer(nn.Module):
    """A reward for each row: of its last word, or of whatever stands at the end of the batch."""

    def __init__(self, *, last_word: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last_word, self.table = last_word, nn.Embedding(30, 16)
        self.rnn, self.score = nn.GRU(16, 16, batch_first=True), nn.Linear(16, 1)

    def forward(self, words: Tensor, sizes: Tensor) -> Tensor:
        states = self.rnn(self.table(words))[0]
        return self.score(states[torch.arange(len(words)), sizes - 1] if self.last_word else states[:, -1])[:, 0]


class Tagger(nn.Module):
    """The next word, of rows that say in `real` what is none of padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.rnn, self.out = nn.Embedding(30, 16), nn.GRU(16, 16, batch_first=True), nn.Linear(16, 30)

    def forward(self, words: Tensor, real: Tensor) -> Tensor:
        return self.out(self.rnn(self.table(words) * real[..., None])[0])


def packed() -> Fields:
    words = torch.randint(1, 30, (4, 12))
    story = torch.tensor([1] * 5 + [2] * 3 + [3] * 4).expand(4, -1)
    where = torch.tensor([*range(5), *range(3), *range(4)]).expand(4, -1)
    return {"where": where, "words": words, "story": story}


def padded() -> tuple[Tensor, Tensor]:
    sizes = torch.randint(2, 10, (8,))
    sizes[0] = 9
    return torch.randint(1, 30, (8, 9)) * (torch.arange(9) < sizes[:, None]), sizes


def found(body: nn.Module, way: str, draw: Callable[[], Fields], loss_of: Callable[[Tensor, Fields], Tensor]) -> list:
    """Train a few steps; the codes of all findings that are no notes."""
    model = Reader(body)
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(4):
            fields = draw()
            loss = loss_of(WAYS[way](model, fields), fields)
            opt.zero_grad()
            loss.backward()
            opt.step()
    return [(finding.code, finding.severity) for finding in guard.findings if finding.severity != "note"]


def next_word(logits: Tensor, fields: Fields, *, pads: bool = True) -> Tensor:
    ignored = -100 if pads else 0
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), fields["words"][:, 1:].flatten(), ignore_index=ignored)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("apart", [False, True])
def test_packed_documents(way: str, apart: bool) -> None:
    assert found(Attention(apart=apart), way, packed, next_word) == ([] if apart else [("L4", "error")])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("last_word", [False, True])
def test_rewards_of_rows_with_lengths(way: str, last_word: bool) -> None:
    def draw() -> Fields:
        words, sizes = padded()
        return {"words": words, "sizes": sizes}

    def loss(rewards: Tensor, fields: Fields) -> Tensor:
        return F.mse_loss(rewards, fields["words"][:, 0] / 30)

    assert found(Scorer(last_word=last_word), way, draw, loss) == ([] if last_word else [("L1", "warning")])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pads", [False, True])
def test_padding_that_is_taught(way: str, pads: bool) -> None:
    def draw() -> Fields:
        words, _ = padded()
        return {"words": words, "real": (words != 0).float()}

    def loss(logits: Tensor, fields: Fields) -> Tensor:
        return next_word(logits, fields, pads=pads)

    assert found(Tagger(), way, draw, loss) == ([("L2", "error")] if pads else [])


def test_the_edges_of_a_graph_are_no_text() -> None:
    """Whole numbers under a name of the host's own that the model has no table for."""
    layer, table = nn.Linear(4, 4), nn.Embedding(50, 4)
    edges = {"graph": {"edges": torch.randint(0, 40, (2, 30)), "x": torch.randn(40, 4)}}
    assert Call(layer, (), edges).tensor("input_ids") is None
    assert Call(table, (), edges).tensor("input_ids") is edges["graph"]["edges"]
