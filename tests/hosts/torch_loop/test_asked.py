"""T8, M3 and K2 through the door: what a host asks for in a line of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import sightline
from sightline.errors import UserError


def codes(guard: Any) -> list[str]:
    guard.close()
    return [f"{f.code} {f.severity}" for f in guard.findings]


# --- one batch by heart -----------------------------------------------------------------------------------------


class Chat(nn.Module):
    """Returns its loss, as models of libraries do. `cut`: where the gradient is lost."""

    def __init__(self, cut: str = "", dropout: float = 0.1) -> None:
        super().__init__()
        self.cut, self.table = cut, nn.Embedding(20, 24)
        self.core, self.drop = nn.GRU(24, 24, batch_first=True), nn.Dropout(dropout)
        self.head = nn.Linear(24, 20)
        if cut == "head only":
            for part in (self.core, self.head):
                part.requires_grad_(False)

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.drop(self.core(self.table(input_ids))[0])
        logits = self.head(hidden)
        if self.cut == "argmax":
            logits = F.one_hot(logits.argmax(-1), 20).float() + 0 * logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        return {"loss": -loss if self.cut == "sign" else loss, "logits": logits}


def chat_batch() -> dict[str, torch.Tensor]:
    ids = torch.randint(0, 20, (4, 8))
    return {"input_ids": ids, "labels": ids.clone()}


@pytest.mark.parametrize(("cut", "found"), [("", []), ("argmax", ["T8 error"])])
def test_one_batch_at_preflight(cut: str, found: list[str]) -> None:
    torch.manual_seed(0)
    model, batch = Chat(cut), chat_batch()
    opt = torch.optim.AdamW(model.parameters(), lr=1e-3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    guard = sightline.attach(model, opt, on_finding=None)
    guard.preflight([batch], overfit=True)
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and model.training and not opt.state
    assert codes(guard) == found


def test_a_loss_of_the_hosts_own() -> None:
    torch.manual_seed(0)
    model, x, y = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 3)), torch.randn(8, 6), torch.arange(8) % 3
    guard = sightline.attach(model, on_finding=None)
    guard.overfit((x,), lambda net, batch: F.cross_entropy(net(*batch), y))
    assert codes(guard) == []
    guard = sightline.attach(model, on_finding=None)
    guard.overfit((x,), lambda net, batch: F.cross_entropy(net(batch[0] * 0), y))
    assert codes(guard) in (["T8 error"], ["T8 warning"])


def test_without_a_loss_it_is_not_run() -> None:
    guard = sightline.attach(nn.Linear(3, 2), on_finding=None)
    guard.overfit((torch.randn(4, 3),))
    assert {r["check"]: r["kind"] for r in guard.records()}["cannot-overfit-one-batch"] == "not-run"


# --- metrics ----------------------------------------------------------------------------------------------------


def accuracy(p: torch.Tensor, t: torch.Tensor) -> float:
    return float((p == t).float().mean())


def error(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return (p.float() - t.float()).square().mean()


def psnr(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return -10 * ((p.float() - t.float()).square().mean() + 1e-10).log10()


def macro_f1(p: torch.Tensor, t: torch.Tensor) -> float:
    kinds = t.unique()
    return sum(float(2 * ((p == k) & (t == k)).sum() / ((p == k).sum() + (t == k).sum())) for k in kinds) / len(kinds)


class Mean:
    """Accumulates, as torchmetrics does."""

    def reset(self) -> None:
        self.right = self.all = 0

    def update(self, p: torch.Tensor, t: torch.Tensor) -> None:
        self.right, self.all = self.right + int((p == t).sum()), self.all + len(t)

    def compute(self) -> torch.Tensor:
        return torch.tensor(100.0 * self.right / self.all)


IDS = torch.tensor([0, 3, 1, 2, 0, 1, 4, 3])


def asked(metric: Any, targets: Any = IDS, predictions: Any = None, **more: Any) -> list[str]:
    guard = sightline.attach(nn.Linear(2, 2), on_finding=None)
    guard.metric(metric, targets, predictions, **more)
    return codes(guard)


@pytest.mark.parametrize("metric", [accuracy, error, psnr, macro_f1, Mean(), lambda p, t: -error(p, t)])
def test_sound_metrics_of_any_direction(metric: Callable[..., Any]) -> None:
    assert asked(metric) == []


def test_what_the_host_knows_of_perfection() -> None:
    assert asked(accuracy, perfect=1.0) == [] and asked(error, perfect=0.0) == [] and asked(Mean(), perfect=100.0) == []
    assert asked(accuracy, predictions=IDS + 1, perfect=1.0) == ["M3 error"]
    assert asked(lambda p, t: accuracy(p[1:], t[:-1]), perfect=1.0) == ["M3 error"]


def test_imperfect_without_a_word() -> None:
    seen = IDS.clone()
    seen[IDS == 0] = 1  # the background is counted, and never predicted
    assert asked(accuracy, predictions=seen) == ["M3 error"]


def test_lists_of_words_and_what_is_no_number() -> None:
    def exact(p: list[str], t: list[str]) -> float:
        return sum(a == b for a, b in zip(p, t, strict=True)) / len(t)

    assert asked(exact, ["a", "b", "c"]) == []
    assert asked(exact, ["a", "b", "c"], ["A", "b", "c"]) == ["M3 error"]
    with pytest.raises(UserError, match="not a number"):
        asked(lambda p, t: {"f1": 1.0})


# --- going on ---------------------------------------------------------------------------------------------------


def made() -> tuple[nn.Module, torch.optim.Optimizer, Any]:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    return net, opt, torch.optim.lr_scheduler.CosineAnnealingLR(opt, 20)


def learn(net: nn.Module, opt: torch.optim.Optimizer, plan: Any, steps: int = 5) -> None:
    for _ in range(steps):
        opt.zero_grad()
        net(torch.randn(8, 5)).square().mean().backward()
        opt.step()
        plan.step()


@pytest.mark.parametrize(
    ("forgotten", "found"),
    [
        ((), []),
        (("opt",), ["K2 error"]),
        (("plan",), ["K2 error"]),
        (("net",), ["K2 error"]),
        (("rng",), ["K2 warning"]),
    ],
)
def test_what_a_resume_forgets(forgotten: tuple[str, ...], found: list[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, opt, plan = made()
    learn(net, opt, plan)
    torch.save(
        {"epoch": 1, "states": {"net": net.state_dict(), "opt": opt.state_dict(), "plan": plan.state_dict()},
         "rng": torch.get_rng_state()},
        tmp_path / "c.pt",
    )  # fmt: skip
    net, opt, plan = made()
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    for name, thing in (("net", net), ("opt", opt), ("plan", plan)):
        if name not in forgotten:
            thing.load_state_dict(saved["states"][name])
    if "rng" not in forgotten:
        torch.set_rng_state(saved["rng"])
    guard = sightline.attach(net, opt, on_finding=None)
    guard.resumed(tmp_path / "c.pt")
    learn(net, opt, plan, 2)
    assert codes(guard) == found


def test_a_checkpoint_of_weights_alone(tmp_path: Path) -> None:
    net, opt, plan = made()
    learn(net, opt, plan)
    torch.save(net.state_dict(), tmp_path / "w.pt")
    guard = sightline.attach(net, opt, on_finding=None)
    guard.resumed(tmp_path / "w.pt")
    assert codes(guard) == ["K2 warning"]
    plain = torch.optim.SGD(net.parameters(), lr=0.1)
    guard = sightline.attach(net, plain, on_finding=None)
    guard.resumed(tmp_path / "w.pt")  # plain descent has nothing to lose
    assert codes(guard) == []


def test_a_folder_of_parts(tmp_path: Path) -> None:
    net, opt, plan = made()
    learn(net, opt, plan)
    for name, thing in (("model", net), ("optimizer", opt), ("scheduler", plan)):
        torch.save(thing.state_dict(), tmp_path / f"{name}.pt")
    guard = sightline.attach(net, opt, on_finding=None)
    guard.resumed(tmp_path)
    assert codes(guard) == []
    with pytest.raises(UserError, match="no checkpoint"):
        sightline.attach(net, opt, on_finding=None).resumed(tmp_path / "nowhere")
