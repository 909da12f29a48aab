"""`sightline run` on fits of Lightning that begin with the weights of another: one goes on, the others begin anew."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sightline.attach.script.checkpoints.makes import moves, optimizer_in
from sightline.attach.script.checkpoints.trainers import Fit, of_a_trainer
from sightline.guard.evidence import ResumeSeen
from tests.forked import LIGHTNING, Forks

SCRIPT = """
import logging, warnings
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
warnings.filterwarnings("ignore")


class Module(L.LightningModule):
    def __init__(self, rate=3e-3, smooth=0.0):
        super().__init__()
        self.save_hyperparameters()
        self.body, self.head, self.seen = nn.Linear(6, 16), nn.Linear(16, 1), 0
        self.scale, self.pooler = nn.Parameter(torch.tensor(1.0)), nn.Linear(16, 4)  # a scalar, and what none asks

    def training_step(self, batch, _):
        x, y = batch
        self.seen += len(x)
        return nn.functional.mse_loss(self(x), y * (1 - self.hparams.smooth))

    def forward(self, x):
        return self.head(self.body(x).tanh()) * self.scale

    def configure_optimizers(self):
        opt = torch.optim.AdamW(self.parameters(), lr=self.hparams.rate)
        ramp = torch.optim.lr_scheduler.LambdaLR(opt, lambda step: min(1.0, (step + 1) / 6))
        return {"optimizer": opt, "lr_scheduler": {"scheduler": ramp, "interval": "step"}}


def rows():
    x = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    return DataLoader(TensorDataset(x, x[:, :3].prod(1, keepdim=True)), batch_size=16, shuffle=True)


def trainer(epochs):
    return L.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                     enable_progress_bar=False, enable_model_summary=False)


def case(name, again, keep=None, of=Module):
    kind = type(name, (of,), {})
    one, fit = kind(), trainer(2)
    fit.fit(one, rows())
    fit.save_checkpoint(name + ".ckpt")
    if keep:
        keep(one)
    again(kind, name + ".ckpt")


def on(**given):
    def again(kind, path):
        trainer(4).fit(kind.load_from_checkpoint(path, weights_only=False, **given), rows())
    return again


def with_new_head(kind, path):
    one, state = kind(), torch.load(path, weights_only=False)["state_dict"]
    one.load_state_dict({name: t for name, t in state.items() if not name.startswith("head")}, strict=False)
    trainer(4).fit(one, rows())


def by_hand(kind, path):
    one = kind()
    one.load_state_dict(torch.load(path, weights_only=False)["state_dict"])
    trainer(4).fit(one, rows())


class Detached(Module):
    switch = {"body": True}  # no plain value

    def forward(self, x):
        held = self.body(x).tanh()
        return self.head(held.detach() if self.switch["body"] else held) * self.scale


torch.manual_seed(0)
case("Longer", on())
case("ByHand", by_hand)
case("NewHead", with_new_head)
case("Thawed", on(), keep=lambda one: one.switch.clear() or one.switch.update(body=False), of=Detached)
case("OtherTask", on(smooth=0.1))
case("Earlier", on(), keep=lambda one: trainer(1).fit(one, rows()))
"""


@pytest.mark.slow
def test_which_fits_go_on(tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path, knows=LIGHTNING)
    told = json.loads((tmp_path / "told.json").read_text())
    found = [(one["model"], one["severity"]) for one in told["findings"] if one["code"] == "K2"]
    assert found == [("Longer 2", "error"), ("ByHand 2", "error")]
    assert not told["run"]["problems"]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def adam(model: nn.Module, decay: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=decay)


def saved() -> dict[str, Any]:
    """A file in Lightning's form, of a net that took steps."""
    model = net()
    opt = adam(model)
    for _ in range(3):
        opt.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        opt.step()
    return {"epoch": 1, "state_dict": model.state_dict(), "optimizer_states": [opt.state_dict()]}


LOST = ResumeSeen(0, "", ("weights",), ("weights",), ("weights",), (("optimizer", "it has no state"),))
ENDED, LONGER = Fit(2, inf, 1, 92, 46, ""), Fit(8, inf, 0, 0, 46, "")


@pytest.mark.parametrize(
    ("before", "now", "told"),
    [
        (ENDED, LONGER, True),
        (replace(ENDED, epoch=2), LONGER, True),
        (replace(ENDED, epochs=inf, steps=92), Fit(inf, 500, 0, 0, 46, ""), True),
        (replace(ENDED, epoch=0), LONGER, False),
        (replace(ENDED, epoch=0, step=46), replace(LONGER, epochs=2), True),  # it was stopped, and is to end as planned
        (replace(ENDED, epoch=0, step=46), replace(LONGER, epochs=1), False),
        (ENDED, replace(LONGER, epochs=2), False),
        (ENDED, replace(LONGER, epochs=1), False),
        (ENDED, replace(LONGER, batches=60), False),
        (ENDED, replace(LONGER, file="last.ckpt"), False),
        (ENDED, None, False),
        (None, LONGER, False),
    ],
)
def test_the_plans_of_two_fits(before: Fit | None, now: Fit | None, told: bool) -> None:
    seen = of_a_trainer(LOST, before, now, saved(), adam(net()))
    assert (seen is not None) == told
    if seen is not None:
        assert before is not None and f"at step {before.step}" in seen.differ[0][1]


def test_an_optimizer_of_other_weights_or_settings() -> None:
    content, part, more = saved(), net(), nn.Sequential(*net(), nn.Linear(1, 1))
    part[0].requires_grad_(False)
    for other in (adam(part), adam(part[2]), adam(more), adam(net(), decay=0.0)):
        assert of_a_trainer(LOST, ENDED, LONGER, content, other) is None
    bare = {**content, "optimizer_states": []}
    assert of_a_trainer(LOST, ENDED, LONGER, bare, adam(net())) is None


class Scaled(nn.Module):
    """With a scalar, and with a layer that nothing asks."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.scale, self.unused = net(), nn.Parameter(torch.tensor(1.0)), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) * self.scale


def test_what_was_moved_is_what_moves() -> None:
    first, again, whole = Scaled(), Scaled(), Scaled()
    optimizers = [adam(model) for model in (first, again, whole)]
    first(torch.randn(8, 4)).mean().backward()
    optimizers[0].step()
    assert optimizer_in(optimizers[0].state_dict())["moments"] == 5  # the scalar's too
    content = {**saved(), "optimizer_states": [optimizers[0].state_dict()]}
    assert of_a_trainer(LOST, ENDED, LONGER, content, optimizers[1]) is not None
    assert moves(optimizers[0]) == 5 and moves(optimizers[1]) == moves(None) == 0
    first.zero_grad()
    again(torch.randn(8, 4)).mean().backward()
    (whole(torch.randn(8, 4)) + whole.unused(torch.randn(8, 4))).mean().backward()
    assert [moves(one) for one in optimizers] == [5, 5, 7]
    again.net[0].requires_grad_(False)
    assert moves(optimizers[1]) == 3


def test_what_came_back_by_hand() -> None:
    whole, anew = replace(LOST, differ=()), replace(LOST, differ=(("weights", "1 of 4"),))
    assert of_a_trainer(whole, ENDED, LONGER, saved(), adam(net())) is whole
    assert of_a_trainer(anew, ENDED, LONGER, saved(), adam(net())) is None
