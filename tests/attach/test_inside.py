"""A captioner that gives its language model embeddings behind a prefix of images, and returns the loss alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from sightline.attach.inside import placed
from sightline.attach.torch_loop import attach
from sightline.guard.check import Finding

PREFIX = 3


class Captioner(nn.Module):
    """The positions' table is larger than the words'."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Linear(6, PREFIX * 16)
        self.say = GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=32, n_embd=16, n_layer=1, n_head=2))

    def forward(self, pictures: Tensor, words: Tensor, labels: Tensor) -> Tensor:
        prefix = self.see(pictures).view(len(pictures), PREFIX, -1)
        given = torch.cat([prefix, self.say.transformer.wte(words)], 1)
        hidden = labels.new_full((len(words), PREFIX), -100)
        loss: Tensor = self.say(inputs_embeds=given, labels=torch.cat([hidden, labels], 1)).loss
        return loss


def told(code: str, batches: Iterable[tuple[Tensor, Tensor]]) -> list[str]:
    """What is found under `code` when a captioner learns these words with these labels."""
    torch.manual_seed(0)
    model, found = Captioner(), list[Finding]()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with attach(model, optimizer, on_finding=found.append, budget=1.0):
        for words, labels in batches:
            optimizer.zero_grad()
            model(torch.randn(len(words), 6), words, labels).backward()
            optimizer.step()
    return [finding.message for finding in found if finding.code == code]


def shifted(times: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The model shifts its labels itself, too."""
    for _ in range(4):
        words = torch.randint(0, 20, (8, 9))
        behind = torch.cat([words[:, 1:], words.new_full((8, 1), -100)], 1)
        yield words, behind if times == 2 else words.clone()


@pytest.mark.parametrize("shifts", [1, 2])
def test_labels_that_are_shifted_before_a_model_that_shifts_them(shifts: int) -> None:
    wrong = "each position is trained on the token after the next"
    assert told("L2", shifted(shifts)) == [wrong] * (shifts == 2)


def ended(hidden: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of several lengths that end in what fills them up."""
    for step in range(8):
        width = 7 if step % 2 else 9
        rows = [[*torch.randint(3, 20, (width - 1 - n % 4,)).tolist(), 1] for n in range(6)]
        words = torch.tensor([row + [1] * (width - len(row)) for row in rows])
        padding = torch.arange(width) >= torch.tensor([[len(row)] for row in rows])
        yield words, words.masked_fill(words == 1 if hidden == "ends" else padding, -100)


@pytest.mark.parametrize("hidden", ["ends", "padding"])
def test_an_end_that_is_hidden_with_the_padding_behind_a_prefix(hidden: str) -> None:
    assert len(told("L3", ended(hidden))) == (hidden == "ends")


def test_where_words_stand() -> None:
    ids, made, other = torch.tensor([[4, 5], [6, 7]]), torch.randn(2, 2, 3), torch.randn(2, 2, 3)
    behind = placed(ids, made, torch.cat([other, made], 1))
    assert behind is not None and behind.tolist() == [[-1, -1, 4, 5], [-1, -1, 6, 7]]
    over = placed(ids, made, torch.cat([made[:, :1], other[:, :1]], 1))
    assert over is not None and over.tolist() == [[4, -1], [6, -1]]
    assert placed(ids, made, made[:, :1]) is None and placed(ids, made, made[:1]) is None
