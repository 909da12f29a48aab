"""T7, M1 and M2 through the door: first losses, shared rows and outputs that are one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

import sightline

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one


class Writer(nn.Module):
    """A small language model; `std` of the embedding, which is tied to the head or not."""

    def __init__(self, std: float | None = 0.02, tied: bool = False, vocabulary: int = 50, width: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(16, width)
        self.block = nn.TransformerEncoderLayer(width, 4, 128, 0.0, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        if std is not None:
            nn.init.normal_(self.tokens.weight, std=std)
            nn.init.normal_(self.head.weight, std=std)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        length = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        hidden = self.tokens(ids) + self.places.weight[:length]
        return self.head(self.norm(self.block(hidden, src_mask=mask, is_causal=True)))


def write(model: nn.Module, leak: bool = False) -> list[str]:
    opt = torch.optim.AdamW(model.parameters(), lr=3e-4)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            ids = torch.randint(0, 50, (8, 12))
            out, wanted = model(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten()
            if leak:
                wanted = wanted.new_zeros(len(wanted))
            opt.zero_grad()
            F.cross_entropy(out, wanted).backward()
            opt.step()
    return [f.code for f in guard.findings]


@pytest.mark.parametrize(
    ("std", "tied", "width"), [(None, False, 64), (0.02, False, 64), (0.02, True, 64), (None, True, 16)]
)
def test_ordinary_inits(std: float | None, tied: bool, width: int) -> None:
    torch.manual_seed(0)
    assert write(Writer(std, tied, width=width)) == []


def test_an_embedding_as_it_is_tied_to_the_head() -> None:
    torch.manual_seed(0)
    assert write(Writer(None, tied=True)) == ["T7"]


def test_a_head_that_is_much_too_large() -> None:
    torch.manual_seed(0)
    assert write(Writer(3.0)) == ["T7"]


def see(model: nn.Module, scale: float, steps: int = 4) -> list[str]:
    opt = torch.optim.SGD(model.parameters(), lr=1e-7)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(steps):
            opt.zero_grad()
            F.cross_entropy(model(scale * torch.rand(16, 3, 16, 16)), torch.randint(0, 10, (16,))).backward()
            opt.step()
    return [f.code for f in guard.findings]


def convnet(norm: bool) -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * 14 * 14, 10))


@pytest.mark.parametrize(("norm", "scale", "found"), [(False, 255.0, ["T7"]), (False, 1.0, []), (True, 255.0, [])])
def test_pixels_of_0_to_255(norm: bool, scale: float, found: list[str]) -> None:
    torch.manual_seed(0)
    assert see(convnet(norm), scale) == found


@pytest.mark.parametrize("head", [1.0, 1e-3])
def test_what_was_trained_before_may_start_anywhere(head: float) -> None:
    """`head`: its part of the rate. At a small one its weights are still distributed as an init draws them."""
    torch.manual_seed(0)
    model, rows = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 6)), torch.randn(64, 8)
    rates = [{"params": model[0].parameters()}, {"params": model[2].parameters(), "lr": 1e-2 * head}]
    opt = torch.optim.Adam(rates, lr=1e-2)
    for _ in range(200):
        opt.zero_grad()
        F.cross_entropy(model(rows), rows[:, :6].argmax(1)).backward()
        opt.step()
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(3):
            opt.zero_grad()
            F.cross_entropy(model(rows), rows[:, :6].argmax(1)).backward()
            opt.step()
    assert guard.findings == ()


# --- shared rows ----------------------------------------------------------------------------------------------------


def rows_of(count: int, kind: str) -> Dataset[Any]:
    if kind == "ids":
        return TensorDataset(torch.randint(0, 500, (count, 12)), torch.randint(0, 4, (count,)))
    if kind == "few":  # few different rows: the sums of two small numbers
        few = torch.randint(0, 4, (count, 2))
        return TensorDataset(few.float(), few[:, 0])
    return TensorDataset(torch.randn(count, 12), torch.randint(0, 4, (count,)))


def reader(kind: str) -> nn.Module:
    if kind == "ids":
        return nn.Sequential(nn.Embedding(500, 8), nn.Flatten(), nn.Linear(96, 4))
    return nn.Sequential(nn.Linear(2 if kind == "few" else 12, 16), nn.ReLU(), nn.Linear(16, 4))


def epochs(kind: str, train: Dataset[Any], *tests: Dataset[Any], count: int = 3) -> list[str]:
    model = reader(kind)
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(count):
            model.train()
            for x, y in DataLoader(train, batch_size=16, shuffle=True):
                opt.zero_grad()
                F.cross_entropy(model(x), y).backward()
                opt.step()
            model.eval()
            with torch.no_grad():
                for test in tests:
                    for x, _ in DataLoader(test, batch_size=25):
                        model(x).argmax(1)
    return [f"{f.code} {f.severity}" for f in guard.findings]


@pytest.mark.parametrize("kind", ["ids", "features"])
def test_validation_rows_that_are_trained_on(kind: str) -> None:
    torch.manual_seed(0)
    whole = rows_of(200, kind)
    first, last = Subset(whole, range(160)), Subset(whole, range(160, 200))
    assert epochs(kind, first, last) == []
    assert epochs(kind, whole, last) == ["M1 warning"]  # trained on everything
    mixed = ConcatDataset([first, Subset(whole, range(160, 175))])
    assert epochs(kind, mixed, last) == ["M1 warning"]  # a part slipped through


@pytest.mark.parametrize("kind", ["ids", "features"])
def test_a_training_score_is_none(kind: str) -> None:
    torch.manual_seed(0)
    train, test = rows_of(120, kind), rows_of(40, kind)
    assert epochs(kind, train, train) == []
    assert epochs(kind, train, train, test) == []


def oversampled(kind: str, *, before: bool) -> list[str]:
    """The rarer of two kinds of rows is copied eight times, before a random split or after it."""
    torch.manual_seed(0)
    often, seldom = (torch.randint(0, 500, (n, 12)) if kind == "ids" else torch.randn(n, 12) for n in (240, 30))
    if before:
        every = torch.cat([often, seldom.repeat(8, 1)])
        every = every[torch.randperm(len(every))]
        train, test = every[:384], every[384:]
    else:
        train, test = torch.cat([often[:190], seldom[:24].repeat(8, 1)]), torch.cat([often[190:], seldom[24:]])
    return epochs(kind, *(TensorDataset(x, torch.zeros(len(x), dtype=torch.long)) for x in (train, test)))


@pytest.mark.parametrize("kind", ["ids", "features"])
def test_rows_that_are_copied_before_the_split(kind: str) -> None:
    assert oversampled(kind, before=True) == ["M1 warning"]
    assert oversampled(kind, before=False) == []


def test_a_pool_that_all_rows_are_drawn_from() -> None:
    """Each of 150 rows comes five times on the average: every row of a test was trained on, and nobody copied it."""
    torch.manual_seed(0)
    pool = torch.randn(150, 12)
    train, test = (TensorDataset(pool[torch.randint(150, (n,))], torch.zeros(n, dtype=torch.long)) for n in (400, 100))
    assert epochs("features", train, test) == []


def test_few_different_rows_meet_by_chance() -> None:
    torch.manual_seed(0)
    assert epochs("few", rows_of(120, "few"), rows_of(40, "few")) == []


def test_labels_of_ones_own_and_rollouts() -> None:
    """Rows that are run without gradients first, and trained on next."""
    torch.manual_seed(0)
    model = reader("features")
    opt = torch.optim.SGD(model.parameters(), lr=0.01)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for _ in range(6):
            x = torch.randn(64, 12)
            with torch.no_grad():
                acted = torch.cat([model(part) for part in x.split(8)]).argmax(1)
            for part, action in zip(x.split(16), acted.split(16), strict=True):
                opt.zero_grad()
                F.cross_entropy(model(part), action).backward()
                opt.step()
    assert [f.code for f in guard.findings if f.code == "M1"] == []


# --- outputs that are one -------------------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    wanted: Callable[[torch.Tensor], torch.Tensor],
    lr: float = 1e-2,
    steps: int = 48,
    later: float | None = None,
) -> list:
    opt = torch.optim.Adam(model.parameters(), lr=lr)
    with sightline.attach(model, opt, on_finding=None) as guard:
        for step in range(steps):
            if later is not None and step == 40:
                opt.param_groups[0]["lr"] = later
            x = torch.randn(16, 10)
            opt.zero_grad()
            F.mse_loss(model(x), wanted(x)).backward()
            opt.step()
    return [f.code for f in guard.findings]


def dead() -> nn.Module:
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))
    nn.init.constant_(model[0].bias, -50.0)
    return model


def test_dead_units() -> None:
    torch.manual_seed(0)
    assert fit(dead(), lambda x: x[:, :2]) == ["M2"]


@pytest.mark.parametrize(
    "wanted",
    [lambda x: x[:, :2], lambda x: x[:, :2] + 30, lambda x: torch.randn(16, 2), lambda x: torch.ones(16, 2)],
    ids=["learnable", "far from 0", "noise", "constant"],
)
def test_alive(wanted: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    assert fit(nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2)), wanted, steps=120) == []


def test_a_constant_that_is_wanted() -> None:
    torch.manual_seed(0)
    assert fit(dead(), lambda x: torch.ones(16, 2)) == []


def test_a_head_of_zeros_opens() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))
    nn.init.zeros_(model[2].weight)
    assert fit(model, lambda x: x[:, :2], lr=1e-3) == []


@pytest.mark.parametrize(("later", "told"), [(1e-2, []), (1e-6, ["M2"])], ids=["left behind", "to the end"])
def test_a_plateau_of_nearly_one_output(later: float, told: list[str]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 2))
    with torch.no_grad():
        model[2].weight.mul_(1e-4)
        model[2].bias.fill_(1.0)
    assert fit(model, lambda x: x[:, :2], lr=1e-6, steps=120, later=later) == told
