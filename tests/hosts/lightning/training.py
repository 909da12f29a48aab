"""How Lightning trains a task of tests/hosts/task.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from sightline.attach.lightning import GuardCallback
from tests.hosts.task import Task

QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}


class Module(pl.LightningModule):
    """A task as Lightning wants it."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model, self._task = task.model, task

    def forward(self, **batch: Tensor) -> Any:
        return self.model(**batch)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self(**batch)["loss"]
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return self._task.made()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._task.beside(self.global_step)


class Asks(pl.Callback):
    """What a script asks of its guard."""

    def __init__(self, task: Task, guard: GuardCallback) -> None:
        self._task, self._guard = task, guard

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        assert self._guard.guard is not None
        self._task.asks(self._guard.guard)


def precision(task: Task) -> dict[str, Any]:
    """Lightning scales losses on a CPU when it is given a scaler for it."""
    if task.half:
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        return {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    return {"precision": "bf16-mixed" if task.bf16 else "32-true"}


def train(task: Task, folder: Path) -> list[dict[str, object]]:
    """The guard's records."""
    guard = GuardCallback(**{"tokenizer": task.tokenizer, "on_finding": None, "budget": 1.0, **task.plan})
    torch.manual_seed(1)
    shuffle = not isinstance(task.rows, IterableDataset)
    batches = DataLoader(task.rows, task.batch, shuffle, collate_fn=task.collate, num_workers=task.workers)
    trainer = pl.Trainer(
        default_root_dir=folder,
        callbacks=[guard, Asks(task, guard)],
        max_steps=task.steps,
        enable_checkpointing=False,
        gradient_clip_val=task.clip or None,
        **QUIET,
        **precision(task),
    )
    try:
        trainer.fit(Module(task), batches)
    finally:
        guard.close()
    return guard.records()
