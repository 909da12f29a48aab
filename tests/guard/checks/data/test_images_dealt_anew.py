"""I5 where two loaders that shuffle on their own give a model its images and its questions."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import nn

from sightline.attach.prints import part_hashes, text_and_image
from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.inputs_and_labels_misaligned import find
from sightline.guard.evidence import Fed, FeedSeen, RowsSeen
from sightline.guard.probes.call import Call

ROWS = RowsSeen(3, 16, (16, 4), own=1.0, others=(0.0,) * 15, noise=1e-6, alone=((0.3, 0.0),))
Deal = Callable[[random.Random, list[int]], list[tuple[int, int, int]]]  # (image, text, class) of an epoch's samples


def fed(deal: Deal, samples: int = 160, epochs: int = 4) -> FeedSeen:
    """Sixteen samples a batch. What `deal` is given is the epoch's order."""
    draw = random.Random(5)
    batches: list[Fed] = []
    for epoch in range(epochs):
        order = list(range(samples))
        draw.shuffle(order)
        dealt = deal(draw, order)
        for start in range(0, samples, 16):
            images, texts, classes = zip(*dealt[start : start + 16], strict=True)
            step, inputs = len(batches), tuple(map(hash, zip(images, texts, strict=True)))
            batches.append(Fed(step, inputs, classes, epoch, None, texts, images))
    return FeedSeen(len(batches), tuple(batches))


def apart(draw: random.Random, order: list[int]) -> list[tuple[int, int, int]]:
    others = draw.sample(order, len(order))
    return [(image, text, text % 4) for image, text in zip(others, order, strict=True)]


def test_images_and_questions_that_are_shuffled_apart() -> None:
    found = find(fed(apart), rows=ROWS)
    assert isinstance(found, Finding) and "images came back beside another text" in found.message


def a_question_of_many(draw: random.Random, order: list[int]) -> list[tuple[int, int, int]]:
    """Fifty about each image, which are answered by itself."""
    asked = [50 * i + draw.randrange(50) for i in order]
    return [(i, q, q % 4) for i, q in zip(order, asked, strict=True)]


SOUND: dict[str, Deal] = {
    "as they belong": lambda _, order: [(i, i, i % 4) for i in order],
    "several questions about an image": lambda _, order: [(i // 5, i, i % 4) for i in order],
    "one of many questions": a_question_of_many,
    "images drawn from a pool": lambda draw, order: [(draw.randrange(160), t, t % 4) for t in order],
    "prompts drawn from a pool": lambda draw, order: [(i, draw.randrange(80), i % 4) for i in order],
    "images of the class": lambda draw, order: [(4 * draw.randrange(40) + t % 4, t, t % 4) for t in order],
    "true pairs and others": lambda draw, order: [(i, t, int(i == t)) for i, t, _ in apart(draw, order)],
    "images that are never the same": lambda draw, order: [(draw.getrandbits(60), t, t % 4) for t in order],
    "hardly a class but one": lambda draw, order: [(i, t, int(t < 8)) for i, t, _ in apart(draw, order)],
    "few texts": lambda draw, order: [(i, t % 40, t % 4) for i, t, _ in apart(draw, order)],
}


@pytest.mark.parametrize("name", SOUND)
def test_images_that_are_dealt_on_purpose(name: str) -> None:
    assert not isinstance(find(fed(SOUND[name]), rows=ROWS), Finding)


def test_outputs_of_the_text_alone() -> None:
    """An image of another domain, or of a task of its own."""
    other = RowsSeen(3, 16, (16, 4), own=1.0, others=(0.0,) * 15, noise=1e-6, alone=((0.0, 0.0),))
    assert isinstance(find(fed(apart), rows=other), CannotTell)
    assert isinstance(find(fed(apart)), CannotTell)


def test_both_sides_are_told_from_a_call() -> None:
    images, ids = torch.randn(6, 3, 4, 4), torch.arange(24).reshape(6, 4)
    call = Call(nn.Identity(), (images,), {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    text, image = text_and_image(part_hashes(call))
    alone = Call(nn.Identity(), (images.flip(0), ids))
    again = text_and_image(part_hashes(alone))
    assert image.tolist() == again[1].flip(0).tolist() and len(set(text.tolist())) == 6
    assert text_and_image(part_hashes(Call(nn.Identity(), (images, images, ids)))) == []
    assert text_and_image(part_hashes(Call(nn.Identity(), (images,)))) == []
