"""What a script saves of its model: parts that are lost are found, parts that are left out on purpose are not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import safetensors.torch
import torch
from torch import nn

from sightline.attach.script.checkpoints.saves import Saves
from sightline.attach.script.watch import Models
from tests.forked import Forks

Save = Callable[[nn.Module, torch.optim.Optimizer, Path], None]


class Halves(nn.Module):
    """A batch norm, a tied head, two parameters in one buffer, a frozen part."""

    def __init__(self) -> None:
        super().__init__()
        flat = torch.randn(16, 8) / 4
        self.left, self.right = nn.Parameter(flat[:8]), nn.Parameter(flat[8:])
        self.table, self.norm = nn.Embedding(10, 8), nn.BatchNorm1d(8)
        self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
        nn.init.normal_(self.table.weight, std=0.1)
        self.head.weight = self.table.weight
        self.frozen = nn.Linear(8, 8)
        self.frozen.requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.frozen(self.norm(self.table(ids).mean(1)))
        return self.head(self.body(x @ self.left @ self.right))


def findings(monkeypatch: pytest.MonkeyPatch, save: Save, path: Path, *, more: int = 0) -> list[tuple[str, str]]:
    """Three steps, a save, `more` steps and saves."""
    for module, names in ((torch, ["save"]), (torch.serialization, ["save"]), (safetensors.torch, ["save_file"])):
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name))
    for name in ("save", "save_model"):
        monkeypatch.setattr(safetensors.torch, name, getattr(safetensors.torch, name))
    torch.manual_seed(0)
    faults: list[str] = []
    models = Models(0.02, lambda finding: None, faults.append)
    Saves(models, faults.append).install()
    model = Halves()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    models.attach(model, [optimizer], blind=False)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.randint(0, 10, (6, 4))), torch.randint(0, 10, (6,))).backward()
        optimizer.step()

    for _ in range(3):
        step()
    save(model, optimizer, path)
    for _ in range(more):
        step()
        save(model, optimizer, path)
    models.close_all(whole=True)
    assert faults == []
    return [(r["code"], r["message"]) for _, records in models.records() for r in records if r["kind"] == "finding"]


def without(*lost: str) -> Save:
    return lambda m, o, path: torch.save({k: v for k, v in m.state_dict().items() if k not in lost}, path)


def seen_storages(model: nn.Module, optimizer: Any, path: Path) -> None:
    seen, kept = set(), {}
    for name, tensor in model.state_dict().items():
        if tensor.untyped_storage().data_ptr() not in seen:
            kept[name] = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
    safetensors.torch.save_file(kept, path)


def only_parameters(model: nn.Module, optimizer: Any, path: Path) -> None:
    weights = {f"module.{name}": p.data for name, p in model.named_parameters()}
    torch.save({"epoch": 3, "net": weights, "optimizer": optimizer.state_dict()}, path)


def by_parts(*more: str) -> Save:
    """One file of the parts' states, and of `more`, under names of the script's own."""

    def save(model: nn.Module, optimizer: Any, path: Path) -> None:
        parts = {f"the {name}": getattr(model, name).state_dict() for name in ("table", "norm", "body", "head")}
        torch.save({"epoch": 3, **parts, **{f"own {n}": getattr(model, n).detach().clone() for n in more}}, path)

    return save


def beside_a_file_of_numpy(model: nn.Module, optimizer: Any, path: Path) -> None:
    by_parts("left")(model, optimizer, path)
    numpy.save(path.with_suffix(".npy"), model.right.detach().numpy())


LOST: dict[str, tuple[Save, str]] = {
    "the model's own parameters": (by_parts(), "left"),
    "one of the model's own parameters": (by_parts("left"), "right"),
    "a part of a shared buffer": (seen_storages, "right"),
    "the bias of a layer": (without("body.bias"), "body.bias"),
    "statistics of batch norm": (only_parameters, "norm.running_mean"),
}


@pytest.mark.parametrize("name", LOST)
@pytest.mark.parametrize("more", [0, 2])
def test_lost(name: str, more: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save, lost = LOST[name]
    found = findings(monkeypatch, save, tmp_path / "saved", more=more)
    assert [code for code, _ in found] == ["K1"] and lost in found[0][1]


def tied_once(model: nn.Module, optimizer: Any, path: Path) -> None:
    kept = {}
    for name, tensor in model.state_dict().items():
        if tensor.data_ptr() not in {other.data_ptr() for other in kept.values()}:
            kept[name] = tensor
    torch.save(kept, path)


def in_shards(model: nn.Module, optimizer: Any, path: Path) -> None:
    names = list(model.state_dict())
    for number in range(3):
        torch.save({k: model.state_dict()[k] for k in names[number::3]}, path.with_suffix(f".{number}"))


def best_of_all(model: nn.Module, optimizer: Any, path: Path) -> None:
    best = copy.deepcopy(model.state_dict())
    torch.save({"best": best, "args": {"lr": 0.1}, "metrics": {"loss": torch.tensor(1.0)}}, path)


def folded(model: nn.Module, optimizer: Any, path: Path) -> None:
    """An export under other names: the norm is folded into what follows."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("norm.") and k != "frozen.weight"}
    torch.save({**state, "frozen.folded": torch.zeros(8, 8)}, path)


KEPT: dict[str, Save] = {
    "by parts": by_parts("left", "right"),
    "by parts, and what no saver hears": beside_a_file_of_numpy,
    "two parts": lambda m, o, path: torch.save({"norm": m.norm.state_dict(), "body": m.body.state_dict()}, path),
    "all": lambda m, o, path: torch.save(m.state_dict(), path),
    "the module itself": lambda m, o, path: torch.save(m, path),
    "behind a wrapper's prefix": lambda m, o, path: torch.save(nn.DataParallel(m).state_dict(), path),
    "with everything else": lambda m, o, path: torch.save({"model": m.state_dict(), "opt": o.state_dict()}, path),
    "without a tied name": tied_once,
    "without the head": without("head.weight", "table.weight"),
    "without what is frozen": without("frozen.weight", "frozen.bias"),
    "without a frozen bias": without("frozen.bias"),
    "in half precision": lambda m, o, path: torch.save({k: v.half() for k, v in m.state_dict().items()}, path),
    "a submodule": lambda m, o, path: torch.save(m.body.state_dict(), path),
    "another model": lambda m, o, path: torch.save({"body.weight": torch.zeros(3, 3)}, path),
    "in shards": in_shards,
    "a copy": best_of_all,
    "an export": folded,
    "no tensors": lambda m, o, path: torch.save([1, 2], path),
}


@pytest.mark.parametrize("name", KEPT)
def test_kept(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert findings(monkeypatch, KEPT[name], tmp_path / "saved", more=1) == []


def test_an_error_of_the_saver_is_the_scripts_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def save(model: nn.Module, optimizer: Any, path: Path) -> None:
        with pytest.raises(TypeError):
            torch.save()  # type: ignore[call-arg]
        with pytest.raises(RuntimeError):
            torch.save(model.state_dict(), path / "no" / "folder")

    assert findings(monkeypatch, save, tmp_path) == []


SCRIPT = """
import torch
from safetensors.torch import load_file, save_file
from torch import nn

net = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
opt = torch.optim.SGD(net.parameters(), lr=0.1)
for _ in range(4):
    opt.zero_grad()
    net(torch.randn(8, 6)).square().mean().backward()
    opt.step()
save_file(dict(KEEP), "net.safetensors")
print(sorted(load_file("net.safetensors")))
"""


@pytest.mark.parametrize(("keep", "codes"), [("net.state_dict()", []), ("net.named_parameters()", ["K1"])])
def test_a_script_that_imports_the_saver_by_name(keep: str, codes: list[str], tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.replace("KEEP", keep), encoding="utf-8")
    done = forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
    assert "0.weight" in done.stdout
    assert [f["code"] for f in json.loads((tmp_path / "told.json").read_text())["findings"]] == codes
