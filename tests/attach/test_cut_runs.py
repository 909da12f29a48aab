"""X4 for placeholders that a limit of rows cuts, however the features are put in their places (see `cut_runs.py`)."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.guard.evidence.cut_runs import Run, cut_at_a_limit, runs

IMAGE, PAD, SEP, EACH, LIMIT = 9, 0, 8, 6, 16
Write = Callable[[Tensor, Tensor, Tensor], Tensor]
Rows = Callable[[random.Random], list[int]]


def copied(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    places = [line.nonzero().squeeze(1) for line in where]
    return torch.stack([t.index_copy(0, p, s[: len(p)]) for t, p, s in zip(text, places, seen, strict=True)])


def put(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    row, column = where.nonzero(as_tuple=True)
    return text.index_put((row, column), seen[row, (where.cumsum(dim=1) - 1)[row, column]])


def chosen(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    place = (where.cumsum(dim=1) - 1).clamp(min=0)[..., None].expand_as(text)
    return torch.where(where[..., None], seen.gather(1, place), text)


def in_pieces(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    rows = []
    for t, w, s in zip(text, where, seen, strict=True):
        start, count = int(w.int().argmax()), int(w.sum())
        rows.append(torch.cat([t[:start], s[:count], t[start + count :]]))
    return torch.stack(rows)


def scattered(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    return torch.stack([t.masked_scatter(w[:, None], s) for t, w, s in zip(text, where, seen, strict=True)])


class Chat(nn.Module):
    """More places than words, and words that do not learn; nothing is told but `pictures` and `rows`."""

    def __init__(self, write: Write, *, frozen: bool, pad: int | None = None) -> None:
        super().__init__()
        self.eye, self.project = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8)
        self.words, self.places = nn.Embedding(12, 8, pad).requires_grad_(not frozen), nn.Embedding(64, 8)
        self.body, self.head, self.write = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 12), write

    def forward(self, pictures: Tensor, rows: Tensor) -> Tensor:
        seen = self.project(self.eye(pictures).flatten(2).transpose(1, 2))
        text = self.write(self.words(rows), rows == IMAGE, seen) + self.places(torch.arange(rows.shape[1]))
        logits: Tensor = self.head(self.body(text)[0])
        return logits


def talk(draw: random.Random, most: int = 14) -> list[int]:
    return draw.choices(range(1, 8), k=draw.randint(1, most))


def cut_in_front(draw: random.Random) -> list[int]:
    return [*[IMAGE] * EACH, *talk(draw), 10, 11][-LIMIT:]


def cut_behind(draw: random.Random) -> list[int]:
    return [*talk(draw), *[IMAGE] * EACH, 10, 11][:LIMIT]


def old_words_dropped(draw: random.Random) -> list[int]:
    return [*[IMAGE] * EACH, *talk(draw)[-(LIMIT - EACH - 2) :], 10, 11]


def some_of_text_alone(draw: random.Random) -> list[int]:
    return old_words_dropped(draw) if draw.random() < 0.6 else [*talk(draw), 10, 11]


def cut_off(draw: random.Random) -> list[int]:
    """The image behind long titles, of which some leave no place for any of it."""
    return [*talk(draw, 18), *[IMAGE] * EACH][:LIMIT]


def padded_in_front(draw: random.Random) -> list[int]:
    row = old_words_dropped(draw)
    return [PAD] * (LIMIT - len(row)) + row


def smaller_pictures(draw: random.Random) -> list[int]:
    return [*[IMAGE] * draw.choice([2, 4, EACH]), *talk(draw), 10, 11][:LIMIT]


def lines_between(draw: random.Random) -> list[int]:
    """A run of another token that a limit cuts, while images are whole."""
    return [*[SEP] * 5, *talk(draw), *[IMAGE] * EACH, 10, 11][-LIMIT:]


def said(
    rows: Rows, write: Write = copied, *, frozen: bool = False, keywords: bool = False, model: Chat | None = None
) -> list[str]:
    torch.manual_seed(0)
    model, draw = model or Chat(write, frozen=frozen), random.Random(0)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(6):
            made = [rows(draw) for _ in range(12)]
            ids = torch.tensor([one + [PAD] * (max(map(len, made)) - len(one)) for one in made])
            pictures = torch.randn(12, 3, 8, 12)
            logits = model(rows=ids, pictures=pictures) if keywords else model(pictures, ids)
            targets = ids[:, 1:].masked_fill((ids[:, 1:] == PAD) | (ids[:, 1:] == IMAGE), -100)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "X4"]


@pytest.mark.parametrize("write", [copied, put, chosen, in_pieces, scattered], ids=lambda f: f.__name__)
@pytest.mark.parametrize("rows", [cut_in_front, cut_behind], ids=lambda f: f.__name__)
def test_a_limit_that_cuts_images(rows: Rows, write: Write) -> None:
    (message,) = said(rows, write, frozen=write is not scattered, keywords=rows is cut_behind)
    assert "for 72 features of 12 images" in message


class Unnamed(Chat):
    """No part of it is known to make the features, so that how many there are is not known either."""

    def __init__(self) -> None:
        super().__init__(copied, frozen=False, pad=PAD)
        self.look = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.GELU(), nn.Conv2d(8, 8, 1))
        del self.eye, self.project

    def forward(self, pictures: Tensor, rows: Tensor) -> Tensor:
        text = self.write(self.words(rows), rows == IMAGE, self.look(pictures).flatten(2).transpose(1, 2))
        logits: Tensor = self.head(self.body(text)[0])
        return logits


def test_images_of_which_nothing_is_left() -> None:
    (message,) = said(cut_off, model=Unnamed())
    assert "for 72 features of 12 images" in message
    assert said(old_words_dropped, model=Unnamed()) == []
    assert said(some_of_text_alone, model=Unnamed()) == []


@pytest.mark.parametrize(
    "rows",
    [old_words_dropped, some_of_text_alone, padded_in_front, smaller_pictures, lines_between],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("write", [copied, chosen], ids=lambda f: f.__name__)
def test_rows_in_which_images_are_as_they_should_be(rows: Rows, write: Write) -> None:
    assert said(rows, write) == []


def a_run(count: int, length: int, *, first: bool = True, last: bool = False) -> Run:
    return Run(count, length, first, last)


def test_short_runs_in_the_longest_rows_alone() -> None:
    whole = [a_run(6, n) for n in range(8, 18)]
    cut = [a_run(n, 20) for n in (5, 3, 5)]
    assert cut_at_a_limit(whole + cut) == 6
    padded = [replace(row, length=20) for row in whole]
    assert cut_at_a_limit(padded + cut * 3) is None  # rows that are padded to one length, with the end token
    assert cut_at_a_limit(whole + cut[:2]) is None  # two may be as long by chance
    assert cut_at_a_limit([*whole, *cut, a_run(4, 12)]) is None  # a smaller image
    assert cut_at_a_limit([*whole, *cut, a_run(6, 21)]) is None  # no limit
    assert cut_at_a_limit([*whole, *cut, a_run(5, 20, first=False)]) is None  # in the midst of a row
    assert cut_at_a_limit([a_run(6, 20) for _ in whole] + cut) is None  # all rows are filled up
    assert cut_at_a_limit([*whole, *[a_run(6, 20) for _ in whole], *cut]) is None  # and half of them


def test_padding_is_no_part_of_a_row() -> None:
    ids = torch.tensor([[9, 9, 9, 9, 1, 2, 0, 0, 0], [9, 9, 1, 2, 3, 1, 2, 4, 10], [3, 9, 9, 9, 9, 1, 10, 0, 0]])
    prompt = torch.arange(9) < torch.tensor([5, 8, 6])[:, None]
    found = {(token, of_prompts): rows for token, of_prompts, rows in runs(ids, None, prompt)}
    assert found == {
        (9, False): [a_run(4, 6), a_run(2, 9), a_run(4, 7, first=False)],
        (9, True): [a_run(4, 5), a_run(2, 8), a_run(4, 6, first=False)],
    }
    left = torch.tensor([[0, 0, 0, 9, 9, 9, 9, 1], [0, 0, 0, 0, 9, 9, 9, 9], [9, 9, 1, 2, 3, 1, 2, 4]])
    for real in (None, left != 0):
        (rows,) = (rows for token, _, rows in runs(left, real, None) if token == IMAGE)
        assert rows == [a_run(4, 5), a_run(4, 4, last=True), a_run(2, 8)]
