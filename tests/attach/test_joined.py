"""X4 for models that put the features of an image beside a text's embeddings, and cut the whole to a length."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sightline import attach

PATCHES, LIMIT = 6, 12
Join = Callable[[Tensor, Tensor], Tensor]


class Reader(nn.Module):
    """A text of 4 to 10 words, an image of six patches, and a class."""

    def __init__(self, join: Join) -> None:
        super().__init__()
        self.patch, self.project = nn.Conv2d(3, 8, 4, stride=4), nn.Linear(8, 8)
        self.words, self.places = nn.Embedding(12, 8), nn.Embedding(32, 8)
        self.body, self.head, self.join = nn.GRU(8, 16, batch_first=True), nn.Linear(16, 12), join

    def forward(self, ids: Tensor, pixel_values: Tensor) -> Tensor:
        if pixel_values.dim() == 3:  # grey ones
            pixel_values = pixel_values[:, None].expand(-1, 3, -1, -1)
        seen = self.project(self.patch(pixel_values).flatten(2).transpose(1, 2))
        x = self.join(self.words(ids), seen)
        logits: Tensor = self.head(self.body(x)[0][:, -1])
        return logits

    def placed(self, x: Tensor) -> Tensor:
        return x + self.places(torch.arange(x.shape[1]))


def text_first(text: Tensor, seen: Tensor) -> Tensor:
    return torch.cat([text, seen], 1)[:, :LIMIT]


def image_first_from_the_end(text: Tensor, seen: Tensor) -> Tensor:
    return torch.cat([seen, text], 1)[:, -LIMIT:]


def image_first(text: Tensor, seen: Tensor) -> Tensor:
    return torch.cat([seen, text], 1)[:, :LIMIT]


def long_enough(text: Tensor, seen: Tensor) -> Tensor:
    return torch.cat([text, seen], 1)[:, : 2 * LIMIT]


def text_cut(text: Tensor, seen: Tensor) -> Tensor:
    return torch.cat([text[:, : LIMIT - PATCHES], seen], 1)


def one_place_on(text: Tensor, seen: Tensor) -> Tensor:
    return torch.cat([text, seen], 1)[:, :-1]


def two_texts(text: Tensor, seen: Tensor) -> Tensor:
    return torch.cat([text, text], 1)[:, :LIMIT] + seen.mean(1, keepdim=True)


def apart_again(text: Tensor, seen: Tensor) -> Tensor:
    both = torch.cat([text, seen], 1)
    return (both + torch.tanh(both.cumsum(1)))[:, : text.shape[1]]


def told(join: Join, *, places: bool = False, grey: bool = False) -> list[str]:
    torch.manual_seed(0)
    model = Reader(join)
    if places:
        model.join = lambda text, seen: model.placed(torch.cat([text, seen], 1))[:, :LIMIT]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, on_finding=None) as guard:
        for step in range(8):
            ids, images = torch.randint(0, 12, (4, 6 + step % 5)), torch.randn(4, *(() if grey else (3,)), 8, 12)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(ids, images), torch.randint(0, 12, (4,))).backward()
            optimizer.step()
    return [finding.message for finding in guard.findings if finding.code == "X4"]


@pytest.mark.parametrize("join", [text_first, image_first_from_the_end], ids=lambda f: f.__name__)
def test_features_are_cut_off_behind_a_join(join: Join) -> None:
    (message,) = told(join)
    assert "of an image's 6 features are cut off" in message and "12 places" in message


def test_places_were_added_before_the_cut() -> None:
    assert told(text_first, places=True) and told(text_first, grey=True)


@pytest.mark.parametrize(
    "join", [image_first, long_enough, text_cut, one_place_on, two_texts, apart_again], ids=lambda f: f.__name__
)
def test_images_are_whole(join: Join) -> None:
    assert not told(join)


class Clips(nn.Module):
    """Clips of two to four frames, whose patches are written over what a text keeps free for them."""

    def __init__(self, write: Join) -> None:
        super().__init__()
        self.patch, self.project = nn.Conv2d(1, 8, 4, stride=4), nn.Linear(8, 8)
        self.words, self.head, self.write = nn.Embedding(12, 8), nn.Linear(8, 12), write

    def forward(self, ids: Tensor, frames: Tensor) -> Tensor:
        seen = self.project(self.patch(frames).flatten(2).transpose(1, 2)).reshape(-1, 8)
        flat, free = self.words(ids).reshape(-1, 8).clone(), (ids == 11).reshape(-1)
        flat[free] = self.write(flat[free], seen[: int(free.sum())])
        logits: Tensor = self.head(flat.view(*ids.shape, 8).cumsum(1)[:, -1])
        return logits


def over(words: Tensor, seen: Tensor) -> Tensor:
    return seen


def beside(words: Tensor, seen: Tensor) -> Tensor:
    return words * 0.0 + seen


@pytest.mark.parametrize("write", [over, beside], ids=lambda f: f.__name__)
@pytest.mark.parametrize("limit", [6, 9])
def test_features_that_are_left_over(write: Join, limit: int) -> None:
    torch.manual_seed(0)
    model = Clips(write)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, optimizer, on_finding=None) as guard:
        for step in range(8):
            counts = [2, 2 + step % 3, 4]  # frames, of two patches each
            rows = [([11] * 2 * count + [1])[:limit] for count in counts]
            ids = torch.tensor([[0] * (9 - len(row)) + row for row in rows])
            optimizer.zero_grad()
            logits = model(ids, torch.randn(sum(counts), 1, 4, 8))
            nn.functional.cross_entropy(logits, torch.randint(0, 10, (3,))).backward()
            optimizer.step()
    told = [finding.message for finding in guard.findings if finding.code == "X4"]
    assert len(told) == (limit < 9) and all("find no placeholder" in message for message in told)
