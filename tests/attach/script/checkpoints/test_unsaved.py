"""Adapters that are saved alone: what was trained beside them is in another file, or nowhere."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import nn

from sightline.attach.origins import ORIGINS
from sightline.attach.script.checkpoints.saves import Saves
from sightline.attach.script.checkpoints.unsaved import Unsaved
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding

Act = Callable[[PeftModel, Path], object]


class Tuned(nn.Module):
    """A projector and a body."""

    def __init__(self) -> None:
        super().__init__()
        self.projector, self.body, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.body(torch.relu(self.projector(x))))
        return out


def adapter(model: PeftModel, path: Path) -> None:
    """As `save_pretrained` saves it."""
    save_file({k: v.contiguous() for k, v in get_peft_model_state_dict(model).items()}, path / "adapter.safetensors")


def findings(
    monkeypatch: pytest.MonkeyPatch,
    path: Path,
    then: Act = adapter,
    amid: Act = lambda m, p: None,
    *,
    told: bool = False,
    beside: bool = True,
    whole: bool = True,
) -> list[Finding]:
    """LoRA on the body, and a projector that learns beside it, of which the library is `told` or not."""
    monkeypatch.setattr(torch, "save", torch.save)
    monkeypatch.setattr(torch.serialization, "save", torch.serialization.save)
    torch.manual_seed(0)
    (path := path / "run" / "out").mkdir(parents=True, exist_ok=True)
    problems, found = list[str](), list[Finding]()
    models = Models(0.02, found.append, problems.append)
    saves, unsaved = Saves(models, problems.append), Unsaved(models, problems.append)
    saves.install()
    saves.every.append(unsaved.saved)
    monkeypatch.setitem(globals(), "save_file", saves._noticed(save_file))
    kept = {"modules_to_save": ["projector"]} if told else {}
    model = get_peft_model(Tuned(), LoraConfig(r=2, target_modules=["body"], **kept))
    if beside and not told:
        model.base_model.model.projector.requires_grad_(True)
    opt = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ORIGINS.held(opt.param_groups[0]["params"])
    models.attach(model, [opt], blind=False)
    for step in range(6):
        opt.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        opt.step()
        if step == 2:
            amid(model, path)
    then(model, path)
    models.close_all(whole=whole)
    assert not problems
    return [one for one in found if one.code == "K1"]


def by_hand(model: PeftModel, path: Path) -> None:
    torch.save({n: p for n, p in model.named_parameters() if "lora_" in n}, path / "lora.pt")


def and_other_arrays(model: PeftModel, path: Path) -> None:
    """What it gives is no copy of it, and a file from before the run has nothing of this one."""
    adapter(model, path)
    projector = model.base_model.model.projector
    np.save(path / "features.npy", projector(torch.randn(32, 6)).detach().numpy())
    np.save(path / "before.npy", projector.weight.detach().numpy())
    os.utime(path / "before.npy", (1e9, 1e9))


def and_its_start(model: PeftModel, path: Path) -> None:
    """The projector that is saved beside is not the one that was trained."""
    adapter(model, path)
    torch.save(nn.Linear(6, 8).state_dict(), path / "projector.pt")


@pytest.mark.parametrize("then", [adapter, by_hand, and_its_start, and_other_arrays])
def test_a_projector_that_is_in_no_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, then: Act) -> None:
    (found,) = findings(monkeypatch, tmp_path, then, adapter)
    assert found.severity == "error" and "projector.weight" in found.message and "modules_to_save" in found.fix


def in_its_own_file(model: PeftModel, path: Path) -> None:
    adapter(model, path)
    torch.save({"model": model.base_model.model.projector.state_dict()}, path / "projector.pt")


def rounded(model: PeftModel, path: Path) -> None:
    adapter(model, path)
    torch.save({f"mm.{k}": v.bfloat16() for k, v in model.base_model.model.projector.state_dict().items()}, path / "p")


def merged(model: PeftModel, path: Path) -> None:
    adapter(model, path)
    whole: Any = model.merge_and_unload()
    save_file({k: v.clone() for k, v in whole.state_dict().items()}, path / "whole.safetensors")


def everything(model: PeftModel, path: Path) -> None:
    adapter(model, path)
    torch.save({"model": model.state_dict(), "epoch": 1}, path / "last.pt")


def pickled(model: PeftModel, path: Path) -> None:
    adapter(model, path)
    (path / "projector.pkl").write_bytes(pickle.dumps(dict(model.base_model.model.projector.named_parameters())))


def as_arrays(model: PeftModel, path: Path) -> None:
    adapter(model, path)
    state = {name: value.numpy() for name, value in model.base_model.model.projector.state_dict().items()}
    np.savez(path.parent / "projector.npz", **state)


def halved(model: PeftModel, path: Path) -> None:
    adapter(model, path)
    (path / "bridge").mkdir(exist_ok=True)
    np.save(path / "bridge" / "weight.npy", model.base_model.model.projector.weight.detach().half().numpy())


@pytest.mark.parametrize("then", [in_its_own_file, rounded, merged, everything, pickled, as_arrays, halved])
def test_what_is_saved_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, then: Act) -> None:
    assert findings(monkeypatch, tmp_path, then) == []
    assert findings(monkeypatch, tmp_path, adapter, then if then is not merged else everything) == []


def two_tasks(model: PeftModel, path: Path) -> None:
    """Each task's adapter has a file of its own; one that was only tried has none."""
    model.add_adapter("other", LoraConfig(r=2, target_modules=["body"]))
    save_file(get_peft_model_state_dict(model, adapter_name="default"), path / "one.safetensors")


@pytest.mark.parametrize("options", [{"told": True}, {"beside": False}, {"beside": False, "then": two_tasks}])
def test_adapters_that_are_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, Any]) -> None:
    assert findings(monkeypatch, tmp_path, **options) == []


def test_runs_that_may_not_have_come_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert findings(monkeypatch, tmp_path, whole=False) == []


def test_another_model_without_adapters(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a plain model a part may be saved on purpose (an encoder, without the head it was trained with)."""

    def body(model: PeftModel, path: Path) -> None:
        torch.save(model.base_model.model.head.state_dict(), path / "head.pt")

    assert findings(monkeypatch, tmp_path, body) == []
