"""Batch: what is supervised, found on the host before the batch goes to a device."""

from __future__ import annotations

import torch

from sightline.data.batch import IGNORE, Batch


def batch(labels: list[list[int]]) -> Batch:
    held = torch.tensor(labels)
    zeros = torch.zeros_like(held)
    return Batch(zeros, held, zeros, zeros, zeros, torch.ones_like(held).bool(), torch.zeros(0, dtype=torch.long))


def test_rows_predict_the_next_label_and_the_first_label_is_predicted_by_nothing() -> None:
    seen = batch([[3, IGNORE, 5, 6], [IGNORE, 7, IGNORE, IGNORE]])
    rows, targets = seen.supervised()
    assert rows.tolist() == [1, 2, 4] and targets.tolist() == [5, 6, 7]
    assert seen.tokens == 3


def test_on_the_way_to_a_device_they_are_found_on_the_host() -> None:
    seen = batch([[3, IGNORE, 5, 6]])
    assert seen.to(torch.device("cpu")).rows is None  # nothing moves, so they are found when they are asked for
    moved = seen.to(torch.device("meta"))
    assert moved.rows is not None and moved.rows.shape == (2,)
    assert moved.rows.device.type == "meta" and moved.labels.device.type == "meta"
