"""Which token stands for images, read off gradients, and only where spans of it look cut; how many images there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sightline
from sightline.attach.onlookers.placeholder import cut_placeholder, taught_placeholder
from sightline.attach.read import image_spans
from sightline.attach.scattered import partly_filled, scattered
from sightline.guard.probes.call import Call

IMAGE, PAD = 9, 0


class Seeing(nn.Module):
    """Writes 6 features an image over the placeholders of a row, as far as there are any.

    It may have a table of places, with more rows than there are words, and writes them row by row then.
    """

    def __init__(self, places: int = 0) -> None:
        super().__init__()
        self.places = nn.Embedding(places, 8) if places else None
        self.vision = nn.Conv2d(3, 8, 4, stride=4)
        self.connector = nn.Linear(8, 8)
        self.language = nn.ModuleList([nn.Embedding(16, 8), nn.GRU(8, 16, batch_first=True), nn.Linear(16, 16)])

    def forward(self, pixel_values: Tensor, tokens: Tensor) -> Tensor:
        seen = self.connector(self.vision(pixel_values).flatten(2).transpose(1, 2))
        text = self.language[0](tokens)
        if self.places is None:
            return self.language[2](self.language[1](text.masked_scatter((tokens == IMAGE)[..., None], seen))[0])
        text = text.clone()
        for place, (ids, features) in enumerate(zip(tokens, seen, strict=True)):
            text[place, ids == IMAGE] = features[: int((ids == IMAGE).sum())]
        return self.language[2](self.language[1](text + self.places(torch.arange(tokens.shape[1])))[0])


def row(words: int, limit: int) -> list[int]:
    """A question of so many words, the image's placeholders, cut at `limit`; then the answer."""
    question = [*range(1, words + 1), *([IMAGE] * 6)]
    return [*question[:limit], 10, 11]


def found(limit: int, places: int = 0) -> list[str]:
    torch.manual_seed(0)
    model = Seeing(places)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(5):
            rows = [row(words, limit) for words in (3, 4, 5, 6, 3, 4)]
            ids = torch.tensor([r + [PAD] * (14 - len(r)) for r in rows])
            logits = model(torch.randn(6, 3, 8, 12), ids)
            targets = ids[:, 1:].masked_fill((ids[:, 1:] == PAD) | (ids[:, 1:] == IMAGE), -100)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "X4"]


@pytest.mark.parametrize("places", [0, 32], ids=["words alone", "more places than words"])
@pytest.mark.parametrize(("limit", "cut"), [(9, True), (8, True), (12, False)])
def test_placeholders_that_a_limit_cuts(limit: int, cut: bool, places: int) -> None:
    said = found(limit, places)
    assert bool(said) == cut
    assert not said or "for 36 features of 6 images" in said[0]


@pytest.mark.parametrize(
    ("counts", "lengths", "cut"),
    [
        ([6, 6, 4, 3, 5, 0], [8, 9, 10, 10, 10, 10], True),  # a limit of 10
        ([6, 6, 4, 3, 5, 6], [8, 9, 10, 9, 10, 7], False),  # images of several sizes
        ([6, 6, 4, 3, 5, 6], [10, 10, 10, 10, 10, 10], False),  # and texts that fill up what is left
        ([6, 6, 6, 6, 5, 4], [8, 9, 7, 8, 10, 10], False),  # two may be as long by chance
    ],
)
def test_placeholders_that_a_limit_cuts_from_the_left(counts: list[int], lengths: list[int], cut: bool) -> None:
    rows = [[IMAGE] * n + [1 + k % 8 for k in range(size - n)] for n, size in zip(counts, lengths, strict=True)]
    ids = torch.tensor([one + [11] * 2 + [PAD] * (12 - len(one)) for one in rows])
    attended = ids != PAD
    prompt = attended & (ids != 11)
    assert cut_placeholder(ids, ids == IMAGE, attended, prompt) == (IMAGE if cut else None)


def test_images_of_many_sizes_and_padding_are_not_cut() -> None:
    live = torch.tensor([[9, 9, 9, 1, 2, 3], [9, 9, 1, 2, 3, 4], [9, 9, 9, 9, 1, 2], [9, 9, 1, 2, 3, 3]])
    assert cut_placeholder(live, live == 9, torch.ones_like(live, dtype=torch.bool)) is None
    padded = torch.tensor([[1, 2, 0, 0], [1, 2, 0, 0], [1, 2, 0, 0], [1, 0, 0, 0], [3, 4, 5, 6]])
    assert cut_placeholder(padded, padded == 0, torch.ones_like(padded, dtype=torch.bool)) is None


class Tied(Seeing):
    """The table is its output layer too, so every row of it has gradients; `write` puts the features in."""

    def __init__(self, write: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.language = nn.ModuleList([nn.Embedding(16, 8), nn.GRU(8, 8, batch_first=True)])
        self.write = write

    def forward(self, pictures: Tensor, tokens: Tensor) -> Tensor:
        seen = self.connector(self.vision(pictures).flatten(2).transpose(1, 2))
        text = self.write(self.language[0](tokens), tokens == IMAGE, seen)
        return self.language[1](text)[0] @ self.language[0].weight.T


def all_at_once(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    return text.masked_scatter(where.unsqueeze(-1).expand_as(text), seen.reshape(-1, seen.shape[-1]))


def as_many_as_places(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    """What is too much is left out before it is written."""
    text = text.clone()
    text[where] = seen.flatten(0, 1)[: int(where.sum())]
    return text


def row_by_row(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    """Rows whose images are smaller have features of padding, at the end."""
    return torch.stack([t.masked_scatter(w[:, None], s) for t, w, s in zip(text, where, seen, strict=True)])


def of_live_patches(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    """The same, all at once."""
    live = torch.arange(seen.shape[1]) < where.sum(dim=1, keepdim=True)
    return text.masked_scatter(where[..., None], seen[live])


def stretched(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    """As many new embeddings as there are tokens, of which a few are taken."""
    return text.masked_scatter(where[..., None], seen.mean(dim=1, keepdim=True).expand_as(text))


def left_cut(words: int, limit: int = 10) -> list[int]:
    return [1, *([IMAGE] * 6), *range(2, 2 + words), 10][-limit:]


def smaller(words: int) -> list[int]:
    """A smaller image."""
    return [1, *([IMAGE] * (8 - words)), *range(2, 2 + words), 10]


def some_without(words: int) -> list[int]:
    """Text alone, beside an empty image."""
    return [1, 2, 3, 4, 10] if words > 3 else left_cut(words, 99)


def said(rows: Callable[[int], list[int]], write: Callable[[Tensor, Tensor, Tensor], Tensor]) -> list[str]:
    torch.manual_seed(0)
    model = Tied(write)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(5):
            made = [rows(words) for words in (2, 3, 4, 2, 2)]
            ids = torch.tensor([r + [PAD] * (14 - len(r)) for r in made])
            logits = model(torch.randn(5, 3, 8, 12), ids)
            targets = ids[:, 1:].masked_fill((ids[:, 1:] == PAD) | (ids[:, 1:] == IMAGE), -100)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "X4"]


@pytest.mark.parametrize(
    ("write", "how"),
    [
        (all_at_once, "29 image placeholders in the ids for 30 features of 5 images"),
        (as_many_as_places, "1 of a batch's 30 image features find no placeholder"),
    ],
)
def test_features_that_find_no_place(write: Callable[[Tensor, Tensor, Tensor], Tensor], how: str) -> None:
    (message,) = said(left_cut, write)
    assert how in message


@pytest.mark.parametrize(
    ("rows", "write"),
    [
        (lambda words: left_cut(words, 99), all_at_once),
        (lambda words: left_cut(words, 99), as_many_as_places),
        (some_without, all_at_once),
        (some_without, as_many_as_places),
        (smaller, row_by_row),
        (smaller, of_live_patches),
        (left_cut, stretched),
    ],
)
def test_features_that_are_meant_to_be_more(
    rows: Callable[[int], list[int]], write: Callable[[Tensor, Tensor, Tensor], Tensor]
) -> None:
    assert said(rows, write) == []


def test_what_the_graph_shows_of_a_scatter() -> None:
    ids, text = torch.tensor([[9, 9, 1], [9, 2, 1]]), torch.zeros(2, 3, 4, requires_grad=True)
    for mask in ((ids == 9)[..., None], (ids == 9)[..., None].expand(2, 3, 4)):
        written = scattered((text.masked_scatter(mask, torch.ones(2, 2, 4)) * 2).relu(), ids)
        assert written is not None and torch.equal(written[0], ids == 9) and written[1] == 4
    assert scattered(text * 2, ids) is None
    assert scattered(text.masked_scatter(torch.rand(3, 4) > 0.5, torch.ones(3, 4)), ids) is None


@pytest.mark.parametrize(
    ("more", "spans"),
    [
        ({}, 0),
        ({"attention_mask": torch.ones(2, 3)}, 0),
        ({"pixel_values": torch.zeros(4, 3, 8, 8)}, 4),
        ({"encoded": {"image": {"states": torch.zeros(4, 5, 8)}}}, None),  # as `generate` hands them on
    ],
)
def test_images_that_a_call_shows(more: dict[str, Any], spans: int | None) -> None:
    assert (
        image_spans(Call(torch.nn.Identity(), (), {"input_ids": torch.ones(2, 3, dtype=torch.long), **more})) == spans
    )


def filled(*counts: int, features: int) -> tuple[int, int] | None:
    """Rows with so many placeholders each, and the features that are offered."""
    ids = torch.full((len(counts), 40), 3)
    for line, count in zip(ids, counts, strict=True):
        line[:count] = IMAGE
    return partly_filled(ids, ids == IMAGE, features)


def test_features_that_go_astray() -> None:
    assert filled(16, 13, 16, 12, features=64) == (IMAGE, 2)  # the fullest row is whole
    assert filled(11, 13, 14, 12, features=64) == (IMAGE, 4)  # none is
    assert filled(0, 13, 14, 12, features=64) == (IMAGE, 3)  # and one is of text alone
    assert filled(16, 16, 16, 16, features=64) is None
    assert filled(16, 32, 16, 0, features=80) is None  # whole images, and room in a buffer behind them
    assert filled(11, 13, 14, 12, features=50) is None


def put(text: Tensor, where: Tensor, seen: Tensor) -> Tensor:
    text = text.clone()
    text[where] = seen.flatten(0, 1)
    return text


@pytest.mark.parametrize("tied", [None, put, all_at_once])
@pytest.mark.parametrize("all_", [True, False])
def test_placeholders_that_a_loop_teaches(all_: bool, tied: Any) -> None:
    torch.manual_seed(0)
    model = Tied(tied) if tied else Seeing()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(4):
            ids = torch.tensor([row(words, 12) for words in (3, 3, 3, 3)])
            logits = model(torch.randn(4, 3, 8, 12), ids)
            targets = ids[:, 1:] if all_ else ids[:, 1:].masked_fill(ids[:, 1:] == IMAGE, -100)
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten()).backward()
            optimizer.step()
    said = [finding.message for finding in guard.findings if finding.code == "X4"]
    assert bool(said) == all_
    assert not said or "24 image placeholders are supervised" in said[0]


def test_a_taught_token_that_is_no_placeholder() -> None:
    ids = torch.tensor([[1, IMAGE, IMAGE, IMAGE, 2, 3, 4, 5]] * 4)
    taught = torch.cat([ids[:, 1:], torch.full((4, 1), -100)], dim=1)
    assert taught_placeholder(ids, ids == IMAGE, taught) == IMAGE
    assert taught_placeholder(ids, ids == IMAGE, taught, IMAGE) is None  # padding, as the table says
    assert taught_placeholder(ids, ids >= 0, taught) is None  # a frozen table
    assert taught_placeholder(ids, ids == 8, taught) is None  # it is read
    assert taught_placeholder(ids, ids == IMAGE, taught.where(taught != IMAGE, -100)) is None
    assert taught_placeholder(ids, ids == IMAGE, taught.where(taught != IMAGE, 6)) is None  # taught something else
