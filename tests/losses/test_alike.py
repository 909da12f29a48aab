"""Pairs that are no negatives of each other, against a search through the graph of equal images and texts."""

from __future__ import annotations

import pytest
import torch

from sightline.losses.alike import alike


def reached(images: list[int], texts: list[int], start: int) -> set[int]:
    """Pairs that a chain of equal images and equal texts leads to."""
    seen, open_ = {start}, [start]
    while open_:
        here = open_.pop()
        for other in range(len(images)):
            if other not in seen and (images[other] == images[here] or texts[other] == texts[here]):
                seen.add(other)
                open_.append(other)
    return seen


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kinds", [2, 5, 20])
def test_chains_are_followed_to_their_ends(seed: int, kinds: int) -> None:
    made = torch.Generator().manual_seed(seed)
    images, texts = (torch.randint(-kinds, kinds, (24,), generator=made) for _ in range(2))
    found = alike(images, texts)
    for pair in range(24):
        together = set((found == found[pair]).nonzero().flatten().tolist())
        assert together == reached(images.tolist(), texts.tolist(), pair)


def test_a_long_chain_is_one() -> None:
    steps = torch.arange(1000)
    assert alike((steps + 1) // 2, steps // 2).unique().tolist() == [0]


@pytest.mark.parametrize("pairs", [0, 1])
def test_none_and_one(pairs: int) -> None:
    assert alike(torch.arange(pairs), torch.arange(pairs)).tolist() == list(range(pairs))
