"""I1-I6 through the door, in scripts of other styles than the specimens', each with its clean twin."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info

import sightline

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one


def fit(model: nn.Module, loader: Any, *, epochs: int = 1, told: Any = None) -> tuple[str, ...]:
    """Train as usual; returns the findings' codes, notes aside."""
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with sightline.attach(model, optimizer, loader if told is None else told, on_finding=None) as guard:
        for _ in range(epochs):
            for x, y in loader:
                loss = F.cross_entropy(model(x), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return tuple(f.code for f in guard.findings if f.severity != "note")


class Pictures(Dataset):  # rows of random pictures, with a crop's worth of noise from a generator of some kind
    def __init__(self, kind: str = "none", seconds: float = 0.0) -> None:
        draw = np.random.default_rng(1)
        self.x, self.y = draw.normal(size=(48, 3, 4, 4)).astype("float32"), draw.integers(0, 3, 48)
        self.kind, self.seconds, self.rng = kind, seconds, np.random.default_rng(5)

    def __len__(self) -> int:
        return 48

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        time.sleep(self.seconds)
        noise = {
            "made early": lambda: self.rng.normal(size=(3, 4, 4)),
            "global numpy": lambda: np.random.normal(size=(3, 4, 4)),
            "torch": lambda: torch.randn(3, 4, 4).numpy(),
            "by index": lambda: np.random.default_rng(i).normal(size=(3, 4, 4)),
            "none": lambda: 0.0,
        }[self.kind]()
        return (self.x[i] + 0.1 * noise).astype("float32"), int(self.y[i])


def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 3))


@pytest.mark.parametrize(
    ("kind", "found"), [("made early", ("I1",)), ("global numpy", ()), ("torch", ()), ("by index", ())]
)
def test_generators_in_workers(kind: str, found: tuple[str, ...]) -> None:
    assert fit(net(), DataLoader(Pictures(kind), batch_size=8, shuffle=True, num_workers=2)) == found


class Stream(IterableDataset):
    def __init__(self, split: bool) -> None:
        self.rows, self.split = Pictures(), split

    def __iter__(self) -> Any:
        info = get_worker_info()
        mine = range(info.id, 48, info.num_workers) if self.split and info else range(48)
        yield from (self.rows[i] for i in mine)


@pytest.mark.parametrize(("split", "found"), [(False, ("I2",)), (True, ())])
def test_streams_in_workers(split: bool, found: tuple[str, ...]) -> None:
    assert fit(net(), DataLoader(Stream(split), batch_size=4, num_workers=2)) == found


@pytest.mark.parametrize(("seconds", "found"), [(0.04, ("I6",)), (0.0, ())])
def test_slow_samples(seconds: float, found: tuple[str, ...]) -> None:
    assert fit(net(), DataLoader(Pictures(seconds=seconds), batch_size=4)) == found


def test_slow_work_between_steps_is_no_slow_loader() -> None:
    class Late:
        """A loader whose reader does something else after each batch."""

        def __init__(self) -> None:
            self.loader = DataLoader(Pictures(), batch_size=4)

        def __iter__(self) -> Any:
            for batch in self.loader:
                time.sleep(0.06)
                yield batch

    late = Late()
    assert fit(net(), late, told=late.loader) == ()


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(("together", "found"), [(False, ("I5",)), (True, ())])
def test_two_loaders_zipped(binary: bool, together: bool, found: tuple[str, ...]) -> None:
    """Both shuffle, each on its own or with the same seed."""
    draw = torch.Generator().manual_seed(3)
    x = torch.randn(48, 6, generator=draw)
    y = (x[:, 0] > 0).long() if binary else torch.randint(0, 4, (48,), generator=draw)
    model = nn.Linear(6, 1 if binary else 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seeds = [torch.Generator().manual_seed(s) for s in (1, 1 if together else 2)]
    loaders = [DataLoader(part, batch_size=8, shuffle=True, generator=g) for part, g in zip((x, y), seeds, strict=True)]
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(4):
            for rows, labels in zip(*loaders, strict=True):
                out = model(rows)
                if binary:
                    loss = F.binary_cross_entropy_with_logits(out.squeeze(1), labels.float())
                else:
                    loss = F.cross_entropy(out, labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    assert tuple(f.code for f in guard.findings) == found


def test_regression_on_changing_targets_teaches_no_classes() -> None:
    x, model = torch.randn(16, 4), nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with sightline.attach(model, optimizer, on_finding=None) as guard:
        for _ in range(8):
            optimizer.zero_grad()
            F.mse_loss(model(x), torch.randn(16, 1)).backward()
            optimizer.step()
    assert "I5" not in [f.code for f in guard.findings]


class Mixed(nn.Module):
    """Sequences of four vectors, read in one of several ways."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.core = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=kind != "time first")
        self.norm, self.out = nn.BatchNorm1d(8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "viewed":
            x = x.transpose(0, 1).reshape(x.shape)  # meant to undo a transpose that never was
        hidden = self.core(x).mean(1)
        if self.kind == "softmax over the batch":
            hidden = hidden.softmax(0)
        return self.out(self.norm(hidden))


@pytest.mark.parametrize(
    ("kind", "found"),
    [("right", ()), ("time first", ("I4",)), ("viewed", ("I4",)), ("softmax over the batch", ("I4",))],
)
def test_samples_that_mix(kind: str, found: tuple[str, ...]) -> None:
    rows = [(torch.randn(8, 4, 8), torch.randint(0, 3, (8,))) for _ in range(6)]
    assert fit(Mixed(kind), rows) == found


def test_a_graph_s_nodes_and_a_hidden_state_are_left_alone() -> None:
    class Graph(nn.Module):
        """One fixed graph: each node sees its neighbours. Counts its calls, as strangers' models do."""

        def __init__(self) -> None:
            super().__init__()
            self.near, self.out, self.calls = (torch.rand(8, 8) > 0.5).float(), nn.Linear(6, 3), 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.out(self.near @ x)

    graph, x, y = Graph(), torch.randn(8, 6), torch.arange(8) % 3
    assert fit(graph, [(x, y)] * 20) == ()
    assert graph.calls == 20


class Masking:  # a collate function that hides some of what a batch holds, drawn from a generator of some kind
    def __init__(self, early: bool) -> None:
        self.rng = np.random.default_rng(5) if early else None

    def __call__(self, rows: list[Any]) -> Any:
        x, y = (torch.as_tensor(np.stack(column)) for column in zip(*rows, strict=True))
        drawn = torch.rand(x.shape) if self.rng is None else torch.from_numpy(self.rng.random(x.shape))
        return x.masked_fill(drawn < 0.2, 0.0), y


@pytest.mark.parametrize("early", [True, False])
def test_generators_in_a_collate_function(early: bool) -> None:
    """The workers of a masked language model: each hides the same places as the other does."""
    loader = DataLoader(Pictures(), batch_size=8, shuffle=True, num_workers=2, collate_fn=Masking(early))
    assert fit(net(), loader) == (("I1",) if early else ())


class EveryOther(torch.utils.data.BatchSampler):  # as accelerate splits batches between ranks: it has no `sampler`
    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches) // 2

    def __iter__(self) -> Any:
        return iter(list(self.batches)[::2])


def test_a_batch_sampler_without_a_sampler() -> None:
    """The guard asks whether it splits the data, and goes on without an answer."""
    batches = DataLoader(Pictures(), batch_size=8, shuffle=True).batch_sampler
    assert fit(net(), DataLoader(Pictures(), batch_sampler=EveryOther(batches))) == ()


@pytest.mark.parametrize("apart", [False, True])
def test_rows_of_an_epoch_that_is_longer_than_what_is_hashed_at_first(apart: bool) -> None:
    """No loader: arrays that are shuffled by hand, and an epoch of 100 batches."""
    torch.manual_seed(0)
    x = torch.randn(800, 6)
    y, model = (x[:, 0] > 0).long() + (x[:, 1] > 0).long(), nn.Linear(6, 3)
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(4):
            order = torch.randperm(800)
            others = torch.randperm(800) if apart else order
            for place in range(0, 800, 8):
                loss = nn.functional.cross_entropy(model(x[order[place : place + 8]]), y[others[place : place + 8]])
                opt.zero_grad()
                loss.backward()
                opt.step()
    assert [one.code for one in guard.findings if one.severity != "note"] == (["I5"] if apart else [])
