"""Samples that leave a tower in another order than they came in, told apart from all that moves many rows at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.guard.probes.call import Call
from sightline.guard.probes.row_orders import row_orders

ROWS = 12


class Texts(nn.Module):
    """Sorts by length; `undone`: gives what it made in the order that it was given."""

    def __init__(self, *, undone: bool) -> None:
        super().__init__()
        self.undone, self.words, self.core = undone, nn.Embedding(20, 8), nn.GRU(8, 16, batch_first=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        lengths, order = lengths.sort(descending=True)
        packed = nn.utils.rnn.pack_padded_sequence(self.words(ids[order]), lengths, batch_first=True)
        last = self.core(packed)[1][-1]
        return last[order.argsort()] if self.undone else last


class Both(nn.Module):
    """`meets`: in a row of an output, in scores of all with all, or as two outputs."""

    def __init__(self, meets: str, *, undone: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.meets, self.eye = meets, nn.Sequential(nn.Flatten(), nn.Linear(48, 16))
        self.texts, self.head = Texts(undone=undone), nn.Linear(32, 5)

    def forward(self, batch: dict[str, Tensor]) -> Any:
        seen, read = self.eye(batch["pictures"]), self.texts(batch["ids"], batch["lengths"])
        if self.meets == "row":
            return {"loss": seen.sum(), "logits": self.head(torch.cat([seen, read], dim=1))}
        return F.normalize(seen) @ F.normalize(read).T if self.meets == "scores" else (seen, read)


def batch(rows: int = ROWS) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(1)
    lengths = torch.randint(3, 9, (rows,), generator=draw)
    ids = torch.randint(2, 20, (rows, 8), generator=draw)
    ids[:, 0] = 1
    ids[torch.arange(8) >= lengths[:, None]] = 0
    return {"pictures": torch.randn(rows, 3, 4, 4, generator=draw), "ids": ids, "lengths": lengths}


@pytest.mark.parametrize("meets", ["row", "scores", "vectors"])
def test_a_tower_that_sorts(meets: str) -> None:
    given = batch()
    seen = row_orders(Call(Both(meets, undone=False), (given,)), 3)
    assert seen is not None and seen.meets == ("inputs" if meets == "row" else "pairs")
    assert seen.one == tuple(range(ROWS))
    assert seen.other == tuple(given["lengths"].sort(descending=True).indices.tolist()) and seen.apart
    seen = row_orders(Call(Both(meets, undone=True), (given,)), 3)
    assert seen is not None and not seen.apart


def test_rows_that_come_sorted() -> None:
    given = batch()
    order = given["lengths"].argsort(descending=True, stable=True)
    seen = row_orders(Call(Both("scores", undone=False), ({name: value[order] for name, value in given.items()},)), 3)
    assert seen is not None and not seen.apart


class Other(nn.Module):
    """What may be done with the rows of two inputs on purpose."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way, self.left, self.right = way, nn.Linear(6, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        a, b = self.left(x), self.right(y)
        if self.way == "negatives":  # pairs, and pairs of strangers beside them
            return a * b, a * b.roll(1, 0)
        if self.way == "difference":
            return a * b - a * b.roll(1, 0)
        if self.way == "attention":
            return a + (a @ b.T).softmax(-1) @ b
        if self.way == "shuffled":  # another order in each pass
            return a * b[torch.randperm(len(b))]
        if self.way == "mixed":
            return 0.7 * a * b + 0.3 * (a * b).flip(0)
        return a.cumsum(0) * b  # time comes first


@pytest.mark.parametrize("way", ["negatives", "difference", "attention", "shuffled", "mixed", "time"])
def test_what_moves_other_rows_on_purpose(way: str) -> None:
    state = torch.get_rng_state()
    seen = row_orders(Call(Other(way), (torch.randn(8, 6), torch.randn(8, 4))), 3)
    assert seen is None or not seen.apart
    torch.set_rng_state(state)


def test_few_rows_tell_nothing() -> None:
    assert row_orders(Call(Both("row", undone=False), (batch(4),)), 3) is None


def test_one_input_meets_the_labels_that_came_with_it() -> None:
    given = batch()
    for undone in (False, True):
        seen = row_orders(Call(Texts(undone=undone), (given["ids"], given["lengths"])), 3)
        assert seen is not None and seen.meets == "labels" and seen.other == tuple(range(ROWS))
        assert bool(seen.apart) is not undone


def test_two_inputs_that_are_sorted_alike() -> None:
    class Sorts(Both):
        def forward(self, batch: dict[str, Tensor]) -> Any:
            order = batch["lengths"].argsort(descending=True)
            return super().forward({name: value[order] for name, value in batch.items()})

    for meets in ("row", "scores"):
        seen = row_orders(Call(Sorts(meets, undone=True), (batch(),)), 3)
        assert seen is not None and seen.meets == "labels" and bool(seen.apart) is (meets == "row")


def test_nothing_is_left_behind() -> None:
    model, given = Both("scores", undone=False), batch()
    before = {name: value.clone() for name, value in given.items()}
    state, mode = torch.get_rng_state(), model.training
    row_orders(Call(model, (given,)), 3)
    assert torch.equal(torch.get_rng_state(), state) and model.training is mode
    assert all(torch.equal(given[name], value) for name, value in before.items())
    assert all(p.grad is None for p in model.parameters())
