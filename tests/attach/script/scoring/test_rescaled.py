"""Numbers that a model learnt in another unit than they are judged in."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sightline.attach.script.scoring.rescaled import in_target_unit
from tests.attach.script.scoring.test_scores import run
from tests.attach.script.scoring.test_wholes import run as whole

pytestmark = pytest.mark.usefixtures("origins")

NUMBERS = """
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

def rows():
    x = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
    return [(one, 35 + 9 * one[0] + 4 * one[1]) for one in x]
net = lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1), nn.Flatten(0))
def loss(net, batch):
    return F.mse_loss(net(batch[0]), (batch[1] - 35) / 10)
def rmse(pred, true):
    return float(np.sqrt(np.mean((pred - true) ** 2)))
def r2(pred, true):
    return float(1 - ((pred - true) ** 2).sum() / ((true - true.mean()) ** 2).sum())
def evaluate(net, loader):
    pairs = [(net(x), y) for x, y in loader]
    said, true = (torch.cat(part).numpy() for part in zip(*pairs))
    return METRIC(said BACK, true)
"""


@pytest.mark.parametrize("metric", ["rmse", "r2"])
@pytest.mark.parametrize(("back", "found"), [("", True), ("* 10 + 35", False)])
def test_the_unit_of_predictions(
    metric: str, back: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = NUMBERS.replace("METRIC", metric).replace("BACK", back)
    said = [one.message for one in run(source, tmp_path, monkeypatch)[0]]
    assert len(said) == found and all("in the unit of the targets" in one for one in said)


WHOLE = """
import torch
from torch import nn
torch.manual_seed(0)
x = torch.randn(260, 6)
y = 35 + 9 * x[:, 0] + 4 * x[:, 1]
mean, std = y[:200].mean(), y[:200].std()
model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
watch(model, optimizer)
for epoch in range(3):
    for at in range(0, 200, 10):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x[at : at + 10])[:, 0], (y[at : at + 10] - mean) / std).backward()
        optimizer.step()
    with torch.no_grad():
        said = model(x[200:]).squeeze(1) BACK
        error = (said - y[200:]).square().mean().sqrt().item()
"""


@pytest.mark.parametrize(("back", "found"), [("", True), ("* std + mean", False)])
def test_the_unit_without_a_function(back: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = [one.message for one in whole(WHOLE.replace("BACK", back), tmp_path, monkeypatch)]
    assert len(said) == found and all("in the unit of the targets" in one for one in said)


EVEN = NUMBERS.replace("(one, 35 + 9 * one[0] + 4 * one[1])", "(one, 0.9 * one[0] + 0.4 * one[1])").replace(
    "(batch[1] - 35) / 10", "batch[1]"
)


@pytest.mark.parametrize(
    ("back", "also", "found"), [("* 10 + 35", "", True), ("* 10 + 35", "* 10 + 35", False), ("", "* 10 + 35", True)]
)
def test_one_side_in_another_unit(
    back: str, also: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = EVEN.replace("METRIC(said BACK, true)", "METRIC(said, true)").replace("METRIC", "rmse")
    source = source.replace("np.sqrt(np.mean((pred - true)", f"np.sqrt(np.mean((pred {back} - (true {also}))")
    said = [one.message for one in run(source, tmp_path, monkeypatch)[0]]
    assert len(said) == found and all("labels in another unit" in one for one in said)


@pytest.mark.parametrize(
    ("back", "also", "found"), [("* std + mean", "", True), ("* std + mean", " * std + mean", False)]
)
def test_one_side_without_a_function(
    back: str, also: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = WHOLE.replace("BACK", back).replace("said - y[200:]", f"said - (even{also})")
    source = source.replace("model = ", "even = (y[200:] - mean) / std\nmodel = ", 1)
    said = [one.message for one in whole(source, tmp_path, monkeypatch)]
    assert len(said) == found and all("labels in another unit" in one for one in said)


def test_predictions_that_have_not_come_far() -> None:
    wanted = 35 + 9 * torch.randn(64)
    assert in_target_unit((wanted - 35) / 9, wanted) is not None
    assert in_target_unit(20 + wanted / 9, wanted) is None  # on their way
    assert in_target_unit(torch.randn(64), wanted) is None  # nothing learnt yet
    assert in_target_unit((wanted - 35) / 9, wanted - 35) is None  # small at the start, as any network's


@pytest.mark.parametrize("back", ["", "* 10 + 35"])
@pytest.mark.parametrize(("shape", "found"), [("", True), (".squeeze(1)", False), ("[..., 0]", False)])
def test_each_beside_every_other(
    shape: str, found: bool, back: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the unit: (N, 1) less (N,) is (N, N)."""
    source = NUMBERS.replace(", nn.Flatten(0)", "").replace(
        "F.mse_loss(net(batch[0])", "F.mse_loss(net(batch[0])[:, 0]"
    )
    if not back:
        source = source.replace("(batch[1] - 35) / 10", "batch[1]").replace("35 + 9 * one[0]", "9 * one[0]")
    source = source.replace("METRIC(said BACK", f"rmse((said{shape}) {back}")
    said = [one.message for one in run(source, tmp_path, monkeypatch)[0]]
    assert len(said) == found and all("with every label" in one or "shape of targets" in one for one in said)
