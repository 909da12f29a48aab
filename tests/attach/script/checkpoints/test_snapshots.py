"""States that are kept in memory: views of the weights go on training, copies do not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sightline.attach.script.checkpoints.kept import Kept
from sightline.attach.script.checkpoints.saves import Saves
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

Keep = Callable[[nn.Module], Any]
Kinds = dict[str, Keep]
FOLLOW: Kinds = {
    "the state": lambda m: m.state_dict(),
    "detached": lambda m: {k: v.detach().cpu() for k, v in m.state_dict().items()},
    "data": lambda m: {"weights": {k: v.data for k, v in m.state_dict().items()}},
    "a shallow copy": lambda m: copy.copy(m.state_dict()),
    "flat": lambda m: {f"model.{k}": v.detach().view(-1) for k, v in m.state_dict().items()},
}
COPIES: Kinds = {
    "a deep copy": lambda m: copy.deepcopy(m.state_dict()),
    "clones": lambda m: {k: v.detach().cpu().clone() for k, v in m.state_dict().items()},
    "arrays": lambda m: {k: v.double().numpy() for k, v in m.state_dict().items()},
    "another format": lambda m: {k: v.half() for k, v in m.state_dict().items()},
}


class Run:
    """A model in training, as a script sees it. `path`: where it saves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        for owner, name in (
            (torch, "save"),
            (torch.serialization, "save"),
            (nn.Module, "state_dict"),
            (nn.Module, "load_state_dict"),
        ):
            monkeypatch.setattr(owner, name, getattr(owner, name))
        self.path, self.problems, self.found = path, list[str](), list[Finding]()
        torch.manual_seed(0)
        self.models = Models(0.02, self.found.append, self.problems.append)
        saves = Saves(self.models, self.problems.append)
        saves.install()
        Kept(self.models, saves, self.problems.append).install()
        self.model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        self.opt = torch.optim.Adam(self.model.parameters(), lr=0.01)
        self.models.attach(self.model, [self.opt], blind=False)

    def train(self, steps: int = 3, opt: torch.optim.Optimizer | None = None) -> None:
        for _ in range(steps):
            self.opt.zero_grad()
            self.model(torch.randn(8, 4)).square().mean().backward()
            (opt or self.opt).step()

    def save(self, what: Any) -> None:
        torch.save({"state": what, "score": 0.5}, self.path / "best.pt")

    def end(self) -> list[Finding]:
        self.models.close_all(whole=True)
        assert not self.problems
        return [one for one in self.found if one.code == "K1"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    return Run(monkeypatch, tmp_path)


def best(run: Run, keep: Keep) -> Any:
    """The third of four epochs was the best; each saves its last weights too."""
    kept = None
    for epoch in range(4):
        run.train()
        torch.save(run.model.state_dict(), run.path / "last.pt")
        if epoch < 3:
            kept = keep(run.model)
    return kept


@pytest.mark.parametrize("kind", FOLLOW)
def test_saved_at_the_end(run: Run, kind: str) -> None:
    run.save(best(run, FOLLOW[kind]))
    (found,) = run.end()
    assert found.severity == "error" and "since step 9, when it was kept" in found.message
    assert "state that is saved" in found.message and str(found.seen["file"]).endswith("best.pt")


@pytest.mark.parametrize("kind", ["detached", "data"])
def test_loaded_at_the_end(run: Run, kind: str) -> None:
    kept = best(run, FOLLOW[kind])
    run.model.load_state_dict(kept.get("weights", kept))
    (found,) = run.end()
    assert "nothing comes back" in found.message


def test_loaded_into_another_model(run: Run) -> None:
    copy.deepcopy(run.model).load_state_dict(best(run, FOLLOW["detached"]))
    (found,) = run.end()
    assert "the state that is loaded" in found.message and "since step 9" in found.message


@pytest.mark.parametrize("kind", COPIES)
def test_copies(run: Run, kind: str) -> None:
    kept = best(run, COPIES[kind])
    run.save(kept)
    run.model.load_state_dict({k: torch.as_tensor(v) for k, v in kept.items()})
    assert run.end() == []


@pytest.mark.parametrize("kind", FOLLOW)
def test_used_in_its_own_step(run: Run, kind: str) -> None:
    run.save(best(run, lambda m: run.save(FOLLOW[kind](m))))
    kept = FOLLOW[kind](run.model)
    run.save(kept)
    run.model.load_state_dict(run.model.state_dict())
    run.train()
    assert run.end() == []


def test_one_that_is_kept_from_the_beginning(run: Run) -> None:
    """Nobody would keep the weights that training begins with in order to save them as its result."""
    state = {k: v.detach() for k, v in run.model.state_dict().items()}
    best(run, COPIES["clones"])
    run.save(state)
    assert run.end() == []


def test_one_of_a_second_stage(run: Run) -> None:
    run.train()
    state, second = run.model.state_dict(), torch.optim.SGD(run.model.parameters(), lr=0.01)
    run.train(opt=second)
    run.save(state)
    assert run.end() == []


def test_one_that_is_saved_again_and_again(run: Run) -> None:
    run.train()
    state = run.model.state_dict()
    for _ in range(3):
        run.train()
        run.save(state)
    assert run.end() == []


def test_a_twin_that_shares_the_weights(run: Run) -> None:
    twin = copy.deepcopy(run.model)
    for mine, its in zip(run.model.parameters(), twin.parameters(), strict=True):
        its.data = mine.data
    for _ in range(3):
        run.train()
        run.save({**run.model.state_dict(), **twin.state_dict()})
        twin.load_state_dict(run.model.state_dict())
    run.save(twin.state_dict())
    assert run.end() == []


def test_averages_and_norms_of_views(run: Run) -> None:
    mean = {k: v.detach().clone().float() for k, v in run.model.state_dict().items()}
    before: dict[str, Tensor] = {}
    moved = []
    for _ in range(4):
        run.train()
        views = {k: v.detach() for k, v in run.model.state_dict().items()}
        moved += [float((v.float() - before.get(k, v).float()).norm()) for k, v in views.items()]
        before = {k: v.clone() for k, v in views.items()}
        for k, v in views.items():
            mean[k].mul_(0.9).add_(v.float(), alpha=0.1)
        run.train(1)
    run.save({"mean": mean, "before": before, "moved": moved})
    assert run.end() == []
