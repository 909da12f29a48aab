"""Validation steps of Lightning modules, which log what they find."""

from __future__ import annotations

import pytest

from tests.attach.script.conftest import Codes

SCRIPT = """
import lightning as L, torch, torchmetrics
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Tagger(L.LightningModule):
    def __init__(self, first=1):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Linear(10, 4)
        self.exact = torchmetrics.MetricCollection([torchmetrics.classification.MulticlassAccuracy(5, average="micro")])
    def forward(self, x):
        return self.net(x)
    def training_step(self, batch, at):
        return nn.functional.cross_entropy(self(batch[0]), batch[1] - self.hparams.first)
    def validation_step(self, batch, at):
        x, y = batch
        said = self(x).argmax(1)
        STEP
    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), 0.03)

torch.manual_seed(0)
x = torch.randn(480, 10)
y = (x @ torch.randn(10, 4)).argmax(1) + 1
train, valid = (TensorDataset(x[at], y[at]) for at in (slice(320), slice(320, None)))
trainer = L.Trainer(max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False,
                    enable_progress_bar=False, enable_model_summary=False)
trainer.fit(Tagger(), DataLoader(train, batch_size=20, shuffle=True), DataLoader(valid, batch_size=40))
"""
BY_HAND = 'self.log("accuracy", (said BACK == y).float().mean(), prog_bar=True)'
COUNTED = "self.log_dict(self.exact(said BACK, y))"


@pytest.mark.parametrize(
    ("step", "back", "told"),
    [
        (BY_HAND, "", {("Tagger", "M3")}),
        (BY_HAND, "+ self.hparams.first", set()),
        pytest.param(COUNTED, "", {("Tagger", "M3")}, marks=pytest.mark.slow),
        pytest.param(COUNTED, "+ 1", set(), marks=pytest.mark.slow),
    ],
)
def test_what_a_step_logs(step: str, back: str, told: set[tuple[str, str]], codes: Codes) -> None:
    assert codes(SCRIPT.replace("STEP", step.replace("BACK", back))) == told
