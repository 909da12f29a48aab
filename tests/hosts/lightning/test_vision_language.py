"""A vision-language model of the user's own under Lightning: faults between its towers, and first losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sightline.attach.lightning import GuardCallback
from tests.hosts import seeing
from tests.hosts.lightning.test_planted import Net, fit
from tests.hosts.planting import Script, loud, planted, plants, told

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")


class Module(pl.LightningModule):
    def __init__(self, code: str, faulty: bool) -> None:
        super().__init__()
        self.model, self.held = seeing.planted(code, faulty)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.model(**batch)["loss"]

    def configure_optimizers(self) -> Any:
        return self.held


def train(code: str, folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    module = Module(code, faulty)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    usual = {"max_epochs": 3, "enable_checkpointing": False}
    torch.manual_seed(1)
    loader = DataLoader(seeing.rows(), 8, shuffle=True)
    pl.Trainer(default_root_dir=folder, callbacks=callbacks, **quiet, **usual).fit(module, loader)
    return module


@plants("X1")
def a_tower_under_no_grad(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    return train("X1", folder, callbacks, faulty)


@plants("X3")
def one_rate_for_fresh_and_trained(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    return train("X3", folder, callbacks, faulty)


@plants("X5")
def pictures_that_reach_nobody(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    return train("X5", folder, callbacks, faulty)


@plants("P5")
def features_scaled_down_on_their_way(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    return train("P5", folder, callbacks, faulty)


@plants("T7")
def a_head_that_is_far_too_large(folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    net = Net()
    nn.init.normal_(net.net[-1].weight, std=20.0 if faulty else 0.02)
    return fit(net, folder, callbacks)


@pytest.mark.parametrize("script", planted(globals(), slow=("P5", "X1", "X5")))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "faulty", [guard], True)
    assert script.plants in told(guard.records()), told(guard.records())
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "clean", [guard], False)
    assert loud(guard.records()) == []
