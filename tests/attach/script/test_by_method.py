"""Models that are trained by `forward` and judged by a method of their own, with and without `eval()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from sightline.attach.feed import Feed
from sightline.attach.script.by_method import ByMethod
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

Act = Callable[[Any, int, int], None]
EPOCH, DRAWN = 6, 12


class Model(nn.Module):
    """An encoder and a head. `forward` gives a loss."""

    def __init__(self, rate: float = 0.3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Tanh())
        self.drop, self.head = nn.Dropout(rate), nn.Linear(16, 3)
        self.saved = False

    def predict(self, x: Tensor) -> Tensor:
        return self.head(self.drop(self.encoder(x)))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        if self.saved:
            return F.cross_entropy(checkpoint(self.predict, x, use_reentrant=True), y)
        return F.cross_entropy(self.predict(x), y)


def run(act: Act, model: Any = None, epochs: int = 4) -> list[Finding]:
    """Train; `act` is told of each step and its place in the epoch."""
    problems: list[str] = []
    found: list[Finding] = []
    torch.manual_seed(0)
    model = model or Model()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    models = Models(1.0, found.append, problems.append)
    ByMethod(models, problems.append)
    models.attach(model, [opt], blind=False)
    for step in range(epochs * EPOCH):
        opt.zero_grad()
        model(torch.randn(16, 6, requires_grad=model.saved), torch.randint(3, (16,))).backward()
        opt.step()
        with torch.no_grad():
            act(model, step, step % EPOCH)
        model.train()
    models.close_all(whole=True)
    assert not problems
    assert not any(part._forward_pre_hooks for part in model.modules())
    return [one for one in found if one.code == "T3"]


def each_epoch(model: Model, step: int, place: int) -> None:
    if place == EPOCH - 1:
        for _ in range(2):
            model.predict(torch.randn(16, 6))


def in_eval_mode(model: Model, step: int, place: int) -> None:
    model.eval()
    each_epoch(model, step, place)


def each_step(model: Model, step: int, place: int) -> None:
    """A target, or features for a bank."""
    model.predict(torch.randn(16, 6))


def batch_norm_is_left(model: Model, step: int, place: int) -> None:
    """Somebody chose the modes."""
    model.eval()
    model.encoder.train()
    each_epoch(model, step, place)


def anew(model: Model, step: int, place: int) -> None:
    """Statistics of batch norm are taken from other data: nobody reads what comes."""
    if place == EPOCH - 1:
        model.encoder(torch.randn(16, 6))


def drawn(model: Model, step: int, place: int) -> None:
    """Dropout as a way of asking how sure the model is."""
    model.encoder.eval()
    if place == EPOCH - 1:
        x = torch.randn(4, 6)
        torch.stack([model.predict(x) for _ in range(DRAWN)]).std(0)


@pytest.mark.parametrize("epochs", [1, 4])
def test_judged_by_a_method_in_train_mode(epochs: int) -> None:
    (found,) = run(each_epoch, epochs=epochs)
    assert "evaluation of its part 'encoder' runs with 1 modules in train mode" in found.message
    assert run(in_eval_mode, epochs=epochs) == []


@pytest.mark.parametrize("act", [each_step, batch_norm_is_left, anew, drawn])
def test_calls_of_parts_on_purpose(act: Act) -> None:
    assert run(act) == []


@pytest.mark.filterwarnings("ignore:None of the inputs")
def test_parts_that_are_run_again_and_parts_that_draw_nothing() -> None:
    """Gradient checkpointing runs them without gradients first."""
    model = Model()
    model.saved = True
    assert run(lambda *_: None, model) == []
    still = Model(0.0)
    still.encoder[1] = nn.LayerNorm(16)
    assert run(each_epoch, still) == []


def test_data_that_is_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the midst of an epoch a part of training itself; after it, an evaluation."""
    loader = DataLoader(TensorDataset(torch.zeros(4)))
    over: dict[int, int] = {}
    monkeypatch.setattr(Feed, "source", lambda: Feed(loader, 0, 0.0, 3, over))
    assert run(each_epoch) == []
    over[0] = EPOCH
    assert len(run(each_epoch)) == 1


def test_a_wrapped_model_that_generates() -> None:
    """PEFT's wrapper hands `generate` on: the model inside is called, and the wrapper is not."""

    class Inner(Model):
        def generate(self, x: Tensor) -> Tensor:
            return self(x, torch.zeros(len(x), dtype=torch.long))

    class Wrapper(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.saved = Inner(), False

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.inner(x, y)

        def predict(self, x: Tensor) -> Tensor:
            return self.inner.generate(x)

    (found,) = run(each_epoch, Wrapper())
    assert "its part 'inner'" in found.message
    assert run(in_eval_mode, Wrapper()) == []
