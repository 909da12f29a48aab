"""I5 where images have several texts each, and one of both is repeated as a whole beside the other in a row."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.attach.torch_loop import attach
from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find
from sightline.guard.evidence import Fed, FeedSeen, RowsSeen

K = 3
Batch = tuple[list[int], list[int]]  # images and texts
Made = Callable[[random.Random, list[int]], Batch]  # of the samples of a batch


def rows_of(*output: int) -> RowsSeen:
    return RowsSeen(3, 24, output, own=1.0, others=(0.0,) * 15, noise=1e-6, alone=((0.3, 0.0),))


def fed(made: Made, *, classes: bool = False) -> FeedSeen:
    draw, batches = random.Random(5), list[Fed]()
    for _ in range(4):
        order = draw.sample(range(64), 64)
        for start in range(0, 64, 8):
            images, texts = made(draw, order[start : start + 8])
            taught = tuple(text % 2 for text in texts) if classes else None
            batches.append(Fed(len(batches), tuple(texts), taught, None, None, tuple(texts), tuple(images)))
    return FeedSeen(len(batches), tuple(batches))


def runs(of: list[int], times: int = K) -> list[int]:
    return [i for i in of for _ in range(times)]


def texts_in_runs(of: list[int]) -> list[int]:
    return [100 * i + k for i in of for k in range(K)]


def texts_in_tiles(of: list[int]) -> list[int]:
    return [100 * i + k for k in range(K) for i in of]


def drawn(draw: random.Random, of: list[int]) -> list[int]:
    """Two of four texts, another time others."""
    return [100 * i + k for i in of for k in draw.sample(range(4), 2)]


FAULTY: dict[str, Made] = {
    "images as a whole": lambda _, of: (of * K, texts_in_runs(of)),
    "texts as a whole": lambda _, of: (runs(of), texts_in_tiles(of)),
    "of texts that are drawn": lambda draw, of: (of * 2, drawn(draw, of)),
}
SOUND: dict[str, Made] = {
    "both in runs": lambda _, of: (runs(of), texts_in_runs(of)),
    "both as a whole": lambda _, of: (of * K, texts_in_tiles(of)),
    "drawn, in runs": lambda draw, of: (runs(of, 2), drawn(draw, of)),
    "new texts each time": lambda draw, of: (of * K, [draw.getrandbits(60) for _ in runs(of)]),
    "one text": lambda _, of: (of, of),
    "one image": lambda _, of: (of[:1] * K, texts_in_runs(of[:1])),
    "all with all": lambda _, of: (of * len(of), runs(of, len(of))),
    "questions asked of each": lambda _, of: (of * 4, [0, 1, 2, 3] * len(of)),
    "own text and others": lambda draw, of: (of * K, [*of, *draw.sample(of, 8), *draw.sample(of, 8)]),
    "own text among choices": lambda draw, of: (runs(of), [t for i in of for t in (i, *draw.sample(range(64), 2))]),
    "images that are never the same": lambda draw, of: ([draw.getrandbits(60) for _ in runs(of)], texts_in_runs(of)),
}


@pytest.mark.parametrize("name", FAULTY)
def test_images_meet_texts_of_others(name: str) -> None:
    found = find(fed(FAULTY[name]), rows=rows_of(24, 7, 50))
    assert isinstance(found, Finding) and "given with texts of others" in found.message
    assert isinstance(find(fed(FAULTY[name], classes=True), rows=rows_of(24, 2)), Finding)


@pytest.mark.parametrize("name", SOUND)
def test_images_with_texts_of_theirs(name: str) -> None:
    assert not isinstance(find(fed(SOUND[name]), rows=rows_of(24, 7, 50)), Finding)


class Read(nn.Module):
    """A decoder that is given what an encoder made of the images."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(50, 16), nn.Linear(16, 50)

    def forward(self, seen: Tensor, ids: Tensor) -> Tensor:
        given: Tensor = self.out((self.words(ids) + seen.mean(1, keepdim=True)).tanh())
        return given


@pytest.mark.parametrize("whole", [True, False])
def test_features_that_are_repeated(*, whole: bool) -> None:
    torch.manual_seed(0)
    encoder, model = nn.Linear(12, 16), Read()
    opt = torch.optim.SGD([*encoder.parameters(), *model.parameters()], lr=0.1)
    with attach(model, opt, on_finding=None) as guard:
        for _ in range(24):
            ids = torch.randint(1, 50, (8, K, 6)).flatten(0, 1)
            seen = encoder(torch.randn(8, 4, 12))
            seen = seen.repeat(K, 1, 1) if whole else seen.repeat_interleave(K, 0)
            opt.zero_grad()
            F.cross_entropy(model(seen, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
            opt.step()
    assert [f.code for f in guard.findings if f.severity == "error"] == ["I5"] * whole


def test_vectors_that_may_be_compared_with_all() -> None:
    assert isinstance(find(fed(FAULTY["images as a whole"]), rows=rows_of(24, 16)), CannotTell)


class Captioner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eye, self.words, self.out = nn.Linear(12, 16), nn.Embedding(50, 16), nn.Linear(16, 50)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        given: Tensor = self.out((self.words(ids) + self.eye(images.flatten(1))[:, None]).tanh())
        return given


WAYS: dict[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "as a whole": lambda x, ids: (x.repeat(K, 1, 1, 1), ids.flatten(0, 1)),
    "as a whole, a copy": lambda x, ids: (x.repeat(K, 1, 1, 1), ids.flatten(0, 1).clone()),
    "in runs": lambda x, ids: (x.repeat_interleave(K, 0), ids.flatten(0, 1)),
    "both as a whole": lambda x, ids: (x.repeat(K, 1, 1, 1), ids.transpose(0, 1).flatten(0, 1)),
    "the same questions": lambda x, ids: (x.repeat(K, 1, 1, 1), ids[:1].repeat(len(x), 1, 1).flatten(0, 1)),
}


@pytest.mark.parametrize(
    ("way", "samples", "codes"),
    [("as a whole", 32, ["I5"]), ("as a whole", 192, ["I5"]), ("as a whole, a copy", 32, ["I5"])]
    + [(way, samples, []) for way in list(WAYS)[2:] for samples in (32, 192)],
)
def test_in_a_loop(way: str, samples: int, codes: list[str]) -> None:
    """Captions of (n, k, t), and images of (n, ...) that are repeated for them; in one epoch, if there are many."""
    torch.manual_seed(0)
    images, captions, model = torch.randn(samples, 3, 2, 2), torch.randint(1, 50, (samples, K, 6)), Captioner()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, opt, on_finding=None) as guard:
        for _ in range(192 // samples):
            for chosen in torch.randperm(samples).split(8):
                x, ids = WAYS[way](images[chosen], captions[chosen])
                opt.zero_grad()
                F.cross_entropy(model(x, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
                opt.step()
    assert [f.code for f in guard.findings if f.severity == "error"] == codes
