"""A vision-language model of the user's own with accelerate: faults between its towers, first losses, leaked rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sightline.attach.accelerate import attach
from tests.hosts import seeing
from tests.hosts.accelerate.test_planted import Watch, classifier, loader, loop
from tests.hosts.planting import Script, loud, planted, plants, told


def train(code: str, watch: Watch, faulty: bool) -> nn.Module:
    accelerator = Accelerator(cpu=True)
    model, optimizer = seeing.planted(code, faulty)
    torch.manual_seed(1)
    batches = DataLoader(seeing.rows(), 8, shuffle=True)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    with watch(accelerator, model, optimizer, batches):
        for _ in range(3):
            for batch in batches:
                accelerator.backward(model(**batch)["loss"])
                optimizer.step()
                optimizer.zero_grad()
    return model


@plants("X1")
def a_tower_under_no_grad(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    return train("X1", watch, faulty)


@plants("X3")
def one_rate_for_fresh_and_trained(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    return train("X3", watch, faulty)


@plants("X5")
def pictures_that_reach_nobody(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    return train("X5", watch, faulty)


@plants("P5")
def features_scaled_down_on_their_way(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    return train("P5", watch, faulty)


@plants("T7")
def a_head_that_is_far_too_large(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    model = classifier()
    nn.init.normal_(model[-1].weight, std=20.0 if faulty else 0.02)
    return loop(model, loader(), watch)


@plants("M1")
def validation_rows_that_were_trained_on(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    accelerator = Accelerator(cpu=True)
    model = classifier()
    x = torch.randn(320, 16, generator=torch.Generator().manual_seed(0))
    rows = TensorDataset(x, x[:, :4].argmax(1))
    train_on = rows if faulty else torch.utils.data.Subset(rows, range(256))
    test = DataLoader(torch.utils.data.Subset(rows, range(256, 320)), 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    parts = accelerator.prepare(model, optimizer, DataLoader(train_on, 32, shuffle=True), test)
    model, optimizer, batches, test = parts
    with watch(accelerator, model, optimizer, batches):
        for _ in range(3):
            model.train()
            for x, y in batches:
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
            model.eval()
            with torch.no_grad():
                for x, _ in test:
                    model(x)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("script", planted(globals(), slow=("X1", "X3")))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    seen: list[Any] = []

    def watch(*prepared: Any, **options: Any) -> Any:
        seen.append(attach(*prepared, on_finding=None, budget=1.0, **options))
        return seen[-1]

    script(tmp_path / "faulty", watch, True)
    assert script.plants in told(seen[-1].records()), told(seen[-1].records())
    script(tmp_path / "clean", watch, False)
    assert loud(seen[-1].records()) == []
