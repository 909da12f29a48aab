"""A checkpoint that lies in several files, read back whole and in part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import torch as safe
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from sightline.attach.script.checkpoints.resumes import Resumes
from sightline.attach.script.checkpoints.saves import Saves
from sightline.attach.script.checkpoints.unrestored import Unrestored
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

LONG, DONE, EPOCHS = 10, 3, 6  # steps of an epoch; epochs until the save, and in all
Parts = tuple[nn.Module, Optimizer, LambdaLR]
Load = Callable[["Script", Parts], int]


class Script:
    """Trains one model, saves it in parts, and goes on with another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        for owner, name in (
            *((torch, name) for name in ("save", "load", "set_rng_state")),
            *((torch.serialization, name) for name in ("save", "load")),
            *((safe, name) for name in ("save_file", "load_file", "save", "save_model")),
            *((nn.Module, name) for name in ("state_dict", "load_state_dict")),
        ):
            monkeypatch.setattr(owner, name, getattr(owner, name))
        torch.manual_seed(0)
        self.path, self.problems, self.found = path, list[str](), list[Finding]()
        self.rows = torch.randn(LONG * 4, 4).split(4)
        self.models = Models(1.0, self.found.append, self.problems.append)
        saves = Saves(self.models, self.problems.append)
        saves.install()
        self.resumes = Resumes(self.models, saves, self.problems.append)
        self.resumes.install()
        Unrestored(self.models, self.resumes, self.problems.append).install()
        parts = self.made()
        self.train(parts, 0, DONE)
        self.save(parts, DONE)

    def made(self) -> Parts:
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        opt = AdamW(model.parameters(), lr=0.01)
        self.resumes.made(opt)
        plan = LambdaLR(opt, lambda step: min(1.0, (step + 1) / 15) * max(0.0, 1 - step / (LONG * EPOCHS)))
        self.models.attach(model, [opt], blind=False)
        return model, opt, plan

    def train(self, parts: Parts, first: int, last: int) -> None:
        model, opt, plan = parts
        for _epoch in range(first, last):
            for rows in self.rows:
                opt.zero_grad()
                model(rows).square().mean().backward()
                opt.step()
                plan.step()

    def save(self, parts: Parts, epoch: int) -> None:
        for part, name in zip(parts, ("model", "opt", "plan"), strict=True):
            torch.save(part.state_dict(), self.path / f"{name}.pt")
        safe.save_file(parts[0].state_dict(), self.path / "model.safetensors")
        torch.save(parts[0].state_dict(), self.path / f"model_epoch_{epoch}.pt")
        (self.path / "state.json").write_text(json.dumps({"epoch": epoch}))

    def read(self, parts: Parts, *names: str) -> int:
        for part, name in zip(parts, ("model", "opt", "plan"), strict=True):
            if name in names:
                part.load_state_dict(torch.load(self.path / f"{name}.pt"))
        return int(json.loads((self.path / "state.json").read_text())["epoch"])

    def messages(self) -> list[str]:
        self.models.close_all(whole=True)
        assert not self.problems
        return [one.message for one in self.found if one.code == "K2"]


def without_the_plan(script: Script, parts: Parts) -> int:
    return script.read(parts, "model", "opt")


def the_optimizer_first(script: Script, parts: Parts) -> int:
    parts[1].load_state_dict(torch.load(script.path / "opt.pt"))
    return script.read(parts, "model")


def of_safetensors(script: Script, parts: Parts) -> int:
    parts[0].load_state_dict(safe.load_file(script.path / "model.safetensors"))
    return script.read(parts, "opt")


def weights_alone(script: Script, parts: Parts) -> int:
    return script.read(parts, "model")


def counted_in_its_name(script: Script, parts: Parts) -> int:
    (script.path / "state.json").unlink()
    (path,) = script.path.glob("model_epoch_*.pt")
    parts[0].load_state_dict(torch.load(path))
    return int(path.stem.split("_")[-1])


def whole(script: Script, parts: Parts) -> int:
    return script.read(parts, "model", "opt", "plan")


def plan_set_forward(script: Script, parts: Parts) -> int:
    first = script.read(parts, "model", "opt")
    for _ in range(first * LONG):
        parts[2].step()
    return first


def tuned(script: Script, parts: Parts) -> int:
    script.read(parts, "model")
    return 0


def tuned_with_moments(script: Script, parts: Parts) -> int:
    script.read(parts, "model", "opt")
    return 0


def of_another_process(script: Script, parts: Parts) -> int:
    script.resumes._saved.clear()
    return script.read(parts, "model")


def read_to_be_shown(script: Script, parts: Parts) -> int:
    torch.load(script.path / "model.pt")
    return 0


LOST: dict[Load, str] = {
    without_the_plan: "schedule was not restored",
    the_optimizer_first: "schedule was not restored",
    of_safetensors: "schedule was not restored",
    weights_alone: "holds no optimizer",
    counted_in_its_name: "holds no optimizer",
}


@pytest.mark.parametrize(("load", "what"), LOST.items(), ids=lambda one: getattr(one, "__name__", ""))
def test_a_part_is_left_behind(load: Load, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = Script(monkeypatch, tmp_path)
    parts = script.made()
    first = load(script, parts)
    for epoch in range(first, EPOCHS):  # each epoch is saved in the place of the last one
        script.train(parts, epoch, epoch + 1)
        script.save(parts, epoch + 1)
    assert [what in message for message in script.messages()] == [True]


QUIET = [whole, plan_set_forward, tuned, tuned_with_moments, of_another_process, read_to_be_shown]


@pytest.mark.parametrize("load", QUIET, ids=lambda one: one.__name__)
def test_nothing_is_left_behind(load: Load, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = Script(monkeypatch, tmp_path)
    parts = script.made()
    script.train(parts, load(script, parts), EPOCHS)
    assert script.messages() == []


@pytest.mark.parametrize(
    ("names", "frozen", "lost"),
    [(("body",), False, 1), (("body", "head"), False, 0), (("body",), True, 0)],
    ids=["one", "both", "frozen until then"],
)
def test_one_of_two_optimizers_is_in_the_file(
    names: tuple[str, ...], frozen: bool, lost: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = Script(monkeypatch, tmp_path)
    two = _two(script)
    if frozen:
        two[0][2:].requires_grad_(False)  # type: ignore[index]
    epoch = _trained(script, two, 0, DONE)
    kept = {name: opt.state_dict() for name, opt in two[1].items()}
    torch.save({"model": two[0].state_dict(), "epoch": epoch, **{n: kept[n] for n in names}}, tmp_path / "both.pt")
    script.models.close_all(whole=False)
    net, opts = two = _two(script)
    read = torch.load(tmp_path / "both.pt")
    net.load_state_dict(read["model"])
    for name in names:
        opts[name].load_state_dict(read[name])
    epoch = read["epoch"]
    while epoch < EPOCHS:
        _trained(script, two, epoch, epoch + 1)
        epoch += 1
    assert ["another optimizer alone" in message for message in script.messages()] == [True] * lost


def _two(script: Script) -> tuple[nn.Module, dict[str, Optimizer]]:
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8, bias=False), nn.Linear(8, 1, bias=False))
    opts: dict[str, Optimizer] = {"body": AdamW(net[0].parameters(), lr=0.01)}
    opts["head"] = AdamW(net[2:].parameters(), lr=0.01, weight_decay=0.1)
    for opt in opts.values():
        script.resumes.made(opt)
    script.models.attach(net, [*opts.values()], blind=False)
    return net, opts


def _trained(script: Script, two: tuple[nn.Module, dict[str, Optimizer]], first: int, last: int) -> int:
    for rows in [rows for _ in range(first, last) for rows in script.rows]:
        for opt in two[1].values():
            opt.zero_grad()
        two[0](rows).square().mean().backward()
        for opt in two[1].values():
            opt.step()
    return last
