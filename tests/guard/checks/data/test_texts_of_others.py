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


def test_vectors_that_may_be_compared_with_all() -> None:
    assert isinstance(find(fed(FAULTY["images as a whole"]), rows=rows_of(24, 16)), CannotTell)


class Captioner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.eye, self.words, self.out = nn.Linear(12, 16), nn.Embedding(50, 16), nn.Linear(16, 50)

    def forward(self, images: Tensor, ids: Tensor) -> Tensor:
        given: Tensor = self.out((self.words(ids) + self.eye(images.flatten(1))[:, None]).tanh())
        return given


@pytest.mark.parametrize("whole", [True, False])
def test_in_a_loop(*, whole: bool) -> None:
    """Captions of (n, k, t), and images of (n, ...) that are repeated for them."""
    torch.manual_seed(0)
    images, captions, model = torch.randn(32, 3, 2, 2), torch.randint(1, 50, (32, K, 6)), Captioner()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            for chosen in torch.randperm(32).split(8):
                x, ids = images[chosen], captions[chosen].flatten(0, 1)
                x = x.repeat(K, 1, 1, 1) if whole else x.repeat_interleave(K, 0)
                opt.zero_grad()
                F.cross_entropy(model(x, ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
                opt.step()
    assert [f.code for f in guard.findings if f.severity == "error"] == ["I5"] * whole
