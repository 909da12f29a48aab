"""Which samples of a model's output are compared: each at another place, where a sample has many."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sightline
from sightline.guard.catalogue import load, page
from sightline.guard.evidence import HeadSeen


def learn(model: nn.Module, inputs: torch.Tensor, *, rows: int) -> set[str]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    guard = sightline.attach(model, optimizer, on_finding=None, budget=100.0, checks=load((page("M2"),)))
    torch.manual_seed(0)
    for _ in range(40):
        ids = inputs[torch.randint(len(inputs), (rows,))]
        out = model(ids)
        (out * torch.randn_like(out)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    guard.close()
    return {record["kind"] for record in guard.records()}


@pytest.mark.parametrize("rows", [48, 64, 128])
def test_texts_that_begin_alike_are_not_one(rows: int) -> None:
    """A causal model says the same of the first word of all texts, for that is the same."""
    torch.manual_seed(1)
    ids = torch.randint(1, 20, (300, 16))
    ids[:, 0] = 0
    assert learn(nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 20)), ids, rows=rows) == {"passed"}


@pytest.mark.parametrize(("faulty", "kind"), [(False, "passed"), (True, "finding")])
def test_channels_of_a_series(faulty: bool, kind: str) -> None:
    """The first of 32 channels is dead; then all are."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv1d(1, 32, 3), nn.Sigmoid())
    with torch.no_grad():
        model[0].bias[: 32 if faulty else 1] = -200.0
    assert learn(model, torch.randn(300, 1, 20), rows=64) == {kind}


@pytest.mark.parametrize(("scaled", "kind"), [(True, "passed"), (False, "finding")])
def test_columns_in_units_of_their_own(scaled: bool, kind: str) -> None:
    """Pascals beside kelvins and a share: tanh is saturated by the first, which hardly differs from row to row."""
    torch.manual_seed(1)
    table = torch.stack([101_300 + 900 * torch.randn(300), 284 + 9 * torch.randn(300), torch.rand(300)], dim=1)
    if scaled:
        table = (table - table.mean(0)) / table.std(0)
    assert learn(nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 2)), table, rows=64) == {kind}


class Pooled(nn.Module):
    """A causal average of tokens, of which the one at `place` is classified, behind dropout."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place
        self.table, self.drop, self.head = nn.Embedding(20, 8), nn.Dropout(0.1), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        means = self.table(ids).cumsum(1) / torch.arange(1, ids.shape[1] + 1)[:, None]
        out: torch.Tensor = self.head(self.drop(means[:, self.place]))
        return out


@pytest.mark.parametrize(("place", "kind"), [(-1, "passed"), (0, "finding")])
def test_one_output_behind_dropout(place: int, kind: str) -> None:
    """All texts begin with one token; dropout alone tells them apart, and is off when the model is judged."""
    torch.manual_seed(1)
    ids, labels = torch.randint(1, 20, (320, 12)), torch.randint(0, 3, (320,))
    ids[:, 0] = 0
    model = Pooled(place)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    guard = sightline.attach(model, optimizer, on_finding=None, budget=100.0, checks=load((page("M2"),)))
    for _ in range(4):
        model.train()
        for rows in torch.randperm(256).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(ids[rows]), labels[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            model(ids[256:])
    guard.close()
    assert {record["kind"] for record in guard.records()} == {kind}


@pytest.mark.parametrize(("weight", "kind"), [(1.0, "finding"), (1e-3, "passed")])
def test_an_autoencoder_whose_pictures_are_one(weight: float, kind: str) -> None:
    """Its KL divergence outweighs what it is to restore; noise makes pictures differ, but in evaluations."""
    torch.manual_seed(0)

    class Vae(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reads, self.draws = nn.Linear(64, 8), nn.Linear(4, 64)

        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            mu, logvar = self.reads(images.flatten(1)).chunk(2, dim=1)
            noise = torch.randn_like(mu) * (0.5 * logvar).exp() if self.training else 0.0
            return self.draws(mu + noise).view(-1, 1, 8, 8), mu, logvar

    model = Vae()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    with sightline.attach(model, optimizer, on_finding=None, budget=100.0, checks=load((page("M2"),))) as guard:
        for step in range(240):
            images = torch.rand(32, 1, 1, 1) * torch.linspace(-1, 1, 64).view(1, 1, 8, 8)
            if step % 60 == 59:
                with torch.no_grad():
                    model.eval()(images)
                model.train()
            made, mu, logvar = model(images)
            divergence = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(dim=1).mean()
            optimizer.zero_grad()
            ((made - images).square().mean() + weight * divergence).backward()
            optimizer.step()
    assert {record["kind"] for record in guard.records()} == {kind}


class Told(nn.Module):
    """Gives its loss alone, of an output layer that is the embedding."""

    def __init__(self, spread: float) -> None:
        super().__init__()
        self.words, self.norm = nn.Embedding(30, 64), nn.LayerNorm(64)
        nn.init.normal_(self.words.weight, std=spread)
        self.out = nn.Linear(64, 30, bias=False)
        self.out.weight = self.words.weight

    def forward(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.out(self.norm(self.words(ids)))
        return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


@pytest.mark.parametrize(("spread", "shape"), [(1.0, (30, 64)), (0.02, (30, 64))])
def test_the_head_behind_a_loss(spread: float, shape: tuple[int, int]) -> None:
    """The layer is found by the softmax in the graph, and measured."""
    torch.manual_seed(0)
    model = Told(spread)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("T7"),))) as guard:
        ids = torch.randint(0, 30, (8, 6))
        model(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    head = guard.watch.latest(HeadSeen)
    assert head is not None and (head.classes, head.inputs) == shape
    assert head.rms == pytest.approx(spread, rel=0.1) and head.embeds
