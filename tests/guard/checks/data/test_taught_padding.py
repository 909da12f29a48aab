"""Padding that a loss teaches a class of words, where nothing but the ids says what is padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sightline.guard.check import Finding
from sightline.guard.checks.data.unmasked_labels import find
from sightline.guard.evidence import IGNORE, BatchSeen, LossSeen

PAD, THE = 3, 0
LENGTHS = torch.tensor([5, 7, 9, 10])
REAL = torch.arange(10) < LENGTHS[:, None]
WORDS = torch.randint(4, 40, (4, 10), generator=torch.Generator().manual_seed(0)).index_fill(1, torch.tensor([2]), THE)


def judged(ids: Tensor, labels: Tensor) -> bool:
    """Whether padding is said to be supervised. The model was given `ids` alone, and the loss `labels`."""
    shown = LossSeen(
        step=1, micro=0, supervised=int((labels != IGNORE).sum()), weight=0.1, targets=labels, input_ids=ids,
        softmax_rows=1.0, probability_rows=0.0,
    )  # fmt: skip
    found = find(BatchSeen(phase="train", step=1, input_ids=ids), shown)
    return isinstance(found, Finding) and "padding tokens are supervised" in found.message


@pytest.mark.parametrize("hidden", [False, True])
def test_labels_filled_up_with_a_word(hidden: bool) -> None:
    ids, following = WORDS.where(REAL, PAD), WORDS.roll(-1, 1)
    assert judged(ids, following.where(REAL, IGNORE if hidden else THE)) != hidden


def test_an_id_that_is_a_word_too_tells_nothing() -> None:
    ids = WORDS.where(REAL, THE)
    assert not judged(ids, WORDS.roll(-1, 1).where(REAL, THE))
    assert not judged(WORDS, WORDS.roll(-1, 1))
