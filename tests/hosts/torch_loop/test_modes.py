"""T3 through the door: loops that never say that they evaluate, and models whose dropout or noise is their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sightline


def learn(net: nn.Module, opt: torch.optim.Optimizer, times: int) -> None:
    for _ in range(times):
        opt.zero_grad()
        F.cross_entropy(net(torch.randn(6, 3, 8, 8)), torch.randint(0, 5, (6,))).backward()
        opt.step()


def epochs(net: nn.Module, test: Any, count: int = 2) -> tuple[Any, ...]:
    """Train, then test, `count` times; returns the findings' codes."""
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    with sightline.attach(net, opt, on_finding=None) as guard:
        for _ in range(count):
            net.train()
            learn(net, opt, 3)
            test(net)
    return tuple(finding.code for finding in guard.findings)


@torch.inference_mode()
def forgetful(net: nn.Module) -> None:
    for _ in range(2):
        net(torch.randn(6, 3, 8, 8)).argmax(-1)


@torch.inference_mode()
def careful(net: nn.Module) -> None:
    net.eval()
    for _ in range(2):
        net(torch.randn(6, 3, 8, 8)).argmax(-1)


def convnet(extra: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), extra, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))


@pytest.mark.parametrize("extra", [nn.BatchNorm2d(8), nn.Dropout2d(0.2)], ids=["batch norm", "dropout"])
def test_a_test_loop_without_eval(extra: nn.Module) -> None:
    assert epochs(convnet(extra), forgetful) == ("T3",)
    assert epochs(convnet(extra), careful) == ()


@pytest.mark.parametrize(("last", "codes"), [(forgetful, ("T3",)), (careful, ())], ids=["forgetful", "careful"])
def test_after_many_evaluations_that_were_right(last: Any, codes: tuple[str, ...]) -> None:
    """The budget is spent on them, and what comes then is of another kind."""
    net = convnet(nn.Dropout2d(0.2))
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    with sightline.attach(net, opt, on_finding=None, budget=1e-6) as guard:
        for turn in range(12):
            net.train()
            learn(net, opt, 2)
            careful(net) if turn < 11 else last(net)
    assert tuple(finding.code for finding in guard.findings) == codes


@torch.no_grad()
def statistics(net: nn.Module) -> None:
    for _ in range(4):
        net(torch.randn(6, 3, 8, 8))


@torch.no_grad()
def drawn(net: nn.Module) -> None:
    batches = [torch.randn(6, 3, 8, 8) for _ in range(3)]
    torch.stack([torch.cat([net(batch) for batch in batches]) for _ in range(5)]).std(0)


@pytest.mark.parametrize("extra", [nn.BatchNorm2d(8), nn.Dropout2d(0.2)], ids=["batch norm", "dropout"])
@pytest.mark.parametrize(
    ("last", "codes"),
    [(forgetful, ("T3",)), (careful, ()), (statistics, ()), (drawn, ())],
    ids=["forgetful", "careful", "statistics", "many draws"],
)
def test_the_last_word_after_an_evaluation_that_ends_in_train_mode(
    extra: nn.Module, last: Any, codes: tuple[str, ...]
) -> None:
    net = convnet(extra)
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    with sightline.attach(net, opt, on_finding=None) as guard:
        for _ in range(3):
            learn(net, opt, 3)
            careful(net)
            net.train()
        last(net)
    assert tuple(finding.code for finding in guard.findings) == codes


@pytest.mark.parametrize("extra", [nn.GroupNorm(2, 8), nn.Dropout2d(0.0), nn.BatchNorm2d(8, track_running_stats=False)])
def test_a_model_that_has_no_mode(extra: nn.Module) -> None:
    assert epochs(convnet(extra), forgetful) == ()


class Own(nn.Module):
    """Randomness inside forward: dropout that does not ask for the mode, or noise that is meant."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.body, self.out = kind, nn.Linear(192, 16), nn.Linear(16, 5)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        hidden = self.body(pictures.flatten(1))
        if self.kind == "always":
            hidden = F.dropout(hidden, 0.3)
        if self.kind == "asks":
            hidden = F.dropout(hidden, 0.3, self.training)
        if self.kind == "latent":
            hidden = hidden + 0.1 * torch.randn_like(hidden)
        return self.out(hidden)


@pytest.mark.parametrize(("kind", "found"), [("always", ("T3",)), ("asks", ()), ("latent", ())])
def test_randomness_inside_forward(kind: str, found: tuple[str, ...]) -> None:
    assert epochs(Own(kind), careful) == found


def test_attention_that_drops_although_in_eval_mode() -> None:
    class Look(nn.Module):
        def __init__(self, p: float) -> None:
            super().__init__()
            self.p, self.qkv, self.out = p, nn.Linear(8, 24), nn.Linear(8, 5)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            q, k, v = self.qkv(pictures.flatten(1).unflatten(1, (24, 8))).chunk(3, -1)
            return self.out(F.scaled_dot_product_attention(q, k, v, dropout_p=self.p).mean(1))

    assert epochs(Look(0.2), careful) == ("T3",)
    assert epochs(Look(0.0), careful) == ()


def test_a_teacher_without_gradients_at_every_step_is_training() -> None:
    """Labels for the unlabelled, by the model itself in train mode, as self-training does."""
    net = convnet(nn.Dropout2d(0.2))
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    with sightline.attach(net, opt, on_finding=None) as guard:
        for _ in range(8):
            new = torch.randn(6, 3, 8, 8)
            with torch.no_grad():
                guess = net(new).argmax(-1)
            opt.zero_grad()
            F.cross_entropy(net(new), guess).backward()
            opt.step()
    assert guard.findings == ()


def test_a_dry_run_before_training_is_no_evaluation() -> None:
    net = convnet(nn.Dropout2d(0.2))
    opt = torch.optim.SGD(net.parameters(), lr=0.05)
    with sightline.attach(net, opt, on_finding=None) as guard:
        with torch.no_grad():
            net(torch.zeros(1, 3, 8, 8))
        learn(net, opt, 3)
    assert guard.findings == ()


@pytest.mark.parametrize("p", [0.3, 0.0])
@pytest.mark.parametrize("kind", ["recurrent", "attention"])
def test_modules_that_drop_inside_themselves(kind: str, p: float) -> None:
    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core: nn.Module = nn.MultiheadAttention(24, 2, dropout=p, batch_first=True)
            if kind == "recurrent":
                self.core = nn.LSTM(24, 24, num_layers=2, dropout=p, batch_first=True)
            self.out = nn.Linear(24, 5)

        def forward(self, pictures: torch.Tensor) -> torch.Tensor:
            x = pictures.flatten(1).unflatten(1, (8, 24))
            return self.out((self.core(x) if kind == "recurrent" else self.core(x, x, x))[0].mean(1))

    assert epochs(Inside(), forgetful) == (("T3",) if p else ())
    assert epochs(Inside(), careful) == ()


class Drop(nn.Module):
    """A host's own part that gives back what it is given, but in train mode."""

    def __init__(self, kind: str, p: float = 0.3) -> None:
        super().__init__()
        self.kind, self.p = kind, p

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0.0:
            return x
        keep = x.new_empty(len(x), *(1,) * (x.dim() - 1)).bernoulli_(1 - self.p)
        if self.kind == "path":
            return x * keep / (1 - self.p)
        return x * keep if self.kind == "mask" else x + 0.1 * torch.randn_like(x)


class Otherwise(Drop):
    """One that gives something else in evaluation mode, so that each mode has a meaning of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) if self.training else x.tanh()


def test_a_drop_of_the_hosts_own() -> None:
    """Stochastic depth."""
    assert epochs(convnet(Drop("path")), forgetful) == ("T3",)
    assert epochs(convnet(Drop("path")), careful) == ()


@pytest.mark.parametrize("extra", [Drop("path", 0.0), Drop("noise"), Drop("mask"), Otherwise("path")])
def test_parts_of_the_hosts_own_that_are_no_dropout(extra: nn.Module) -> None:
    """Noise to explore, and masks, may be wanted in what is asked without gradients."""
    assert epochs(convnet(extra), forgetful) == ()
