"""A vision-language model of the user's own in the Trainer: faults between its towers, and first losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import Trainer

from sightline.attach.hf_trainer import GuardCallback
from tests.hosts import seeing
from tests.hosts.hf_trainer.test_planted import Classifier, arguments, points
from tests.hosts.planting import Script, loud, planted, plants, told

STEPS = 24


def train(code: str, folder: Path, callbacks: list[Any], faulty: bool) -> nn.Module:
    model, optimizer = seeing.planted(code, faulty)
    args = arguments(
        folder, max_steps=STEPS, per_device_train_batch_size=8, max_grad_norm=0.0, lr_scheduler_type="constant"
    )
    Trainer(model, args, train_dataset=seeing.rows(), optimizers=(optimizer, None), callbacks=callbacks).train()
    return model


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
    model = Classifier()
    nn.init.normal_(model.head.weight, std=20.0 if faulty else 0.02)
    Trainer(model, arguments(folder), train_dataset=points(), callbacks=callbacks).train()
    return model


@pytest.mark.parametrize("script", planted(globals(), slow=("P5", "T7", "X3", "X5")))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "faulty", [guard], True)
    assert script.plants in told(guard.records()), told(guard.records())
    guard = GuardCallback(on_finding=None, budget=1.0)
    script(tmp_path / "clean", [guard], False)
    assert loud(guard.records()) == []
