"""Hashes of rows and of values: equal where the bits are, and nowhere else."""

from __future__ import annotations

import time

import pytest
import torch
from torch import Tensor, nn

from sightline.attach.prints import row_hashes, value_hashes
from sightline.guard.probes.call import Call


def prints(*args: Tensor, **kwargs: Tensor) -> list[int]:
    hashes = row_hashes(Call(nn.Identity(), args, kwargs))
    assert hashes is not None
    return hashes.tolist()


def rows_of(kind: str) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 20, (100_000, 10), generator=draw)
    if kind == "ids":
        return ids
    if kind == "bits":
        return torch.randint(0, 2, (100_000, 24), generator=draw).bool()
    if kind == "bytes":
        return torch.randint(0, 4, (100_000, 12), generator=draw).to(torch.uint8)
    return ids.to({"float64": torch.float64, "float32": torch.float32, "bfloat16": torch.bfloat16}[kind])


@pytest.mark.parametrize("kind", ["ids", "bits", "bytes", "float32", "float64", "bfloat16"])
def test_different_rows_of_few_values_never_meet(kind: str) -> None:
    """2^64 hashes and 1e5 rows: a chance of 3e-10 that two meet."""
    rows = rows_of(kind)
    assert len(set(prints(rows))) == len(torch.unique(rows, dim=0))


def test_the_order_within_a_row_counts() -> None:
    orders = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(n)) for n in range(5000)])
    assert len(set(prints(orders))) == len(torch.unique(orders, dim=0))


def test_what_is_taken_from_one_place_and_added_to_another_is_seen() -> None:
    base = torch.full((10,), 9)
    moved = [base.clone()]
    for i in range(10):
        for j in range(10):
            for by in range(1, 9):
                if i != j:
                    row = base.clone()
                    row[i] -= by
                    row[j] += by
                    moved.append(row)
    assert len(set(prints(torch.stack(moved)))) == len(moved)


def test_complements_and_signs_differ() -> None:
    values = torch.tensor([[0], [-1], [1], [-2], [2**62], [-(2**63)], [2**63 - 1]])
    assert len(set(prints(values))) == len(values)


def test_tensors_of_a_row_do_not_stand_for_each_other() -> None:
    a, b = torch.tensor([[1, 2], [2, 1]]), torch.tensor([[2, 1], [1, 2]])
    first, second = prints(a, b)
    assert first != second


class Judged(nn.Module):
    """A model that may give its loss itself."""

    def forward(self, ids: Tensor, second: Tensor, labels: Tensor | None = None) -> Tensor:
        return ids + second


def test_labels_are_no_input_with_or_without_a_keyword() -> None:
    ids, labels, model = torch.arange(12).reshape(4, 3), torch.arange(4), Judged()
    calls = [Call(model, (ids, ids)), Call(model, (ids, ids, labels)), Call(model, (ids, ids), {"labels": labels + 1})]
    alone, bare, named = (row_hashes(call) for call in calls)
    assert alone is not None and bare is not None and named is not None
    assert torch.equal(alone, bare) and torch.equal(alone, named)
    other = row_hashes(Call(model, (ids, ids + 1, labels)))
    assert other is not None and not torch.equal(other, alone)


def test_the_same_bits_have_the_same_hash_whatever_the_batch() -> None:
    rows = torch.randn(6, 3, 5)
    assert prints(rows)[2:4] == prints(rows[2:4]) == prints(rows[2:4].transpose(1, 2).contiguous().transpose(1, 2))


@pytest.mark.parametrize("width", [6, 9, 5000])
def test_padding_on_the_right_does_not_count(width: int) -> None:
    short = torch.tensor([[5, 0, 7, 8]])
    ids = torch.full((1, width), 3)
    ids[:, :4] = short
    mask = torch.zeros(1, width, dtype=torch.long)
    mask[:, :4] = 1
    full = prints(input_ids=short, attention_mask=torch.ones_like(short))
    assert (prints(input_ids=ids, attention_mask=mask) == full) == (width < 4096)  # long rows are sampled


def test_values_that_were_exchanged_differ() -> None:
    weight = torch.randn(40, 40)
    twin = weight.clone()
    twin[0, 0], twin[0, 1] = weight[0, 1], weight[0, 0]
    first, second, third = value_hashes([weight, twin, weight.clone()]).tolist()
    assert first != second
    assert first == third


def test_a_batch_is_hashed_in_milliseconds() -> None:
    """16 images of 3 x 64 x 64: less than a tenth of what the smallest convolution on them costs backwards."""
    images = torch.randn(16, 3, 64, 64)
    prints(images)
    best = min(_seconds(images) for _ in range(5))
    assert best < 0.02


def _seconds(images: Tensor) -> float:
    start = time.thread_time()
    prints(images)
    return time.thread_time() - start
