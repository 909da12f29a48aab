"""How `transformers.Trainer` trains a task of tests/hosts/task.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import Trainer, TrainingArguments

from sightline.attach.hf_trainer import GuardCallback
from tests.hosts.half import halve
from tests.hosts.task import Task

QUIET = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no"}


class Between(transformers.TrainerCallback):
    """What a script does between steps, and asks of its guard."""

    def __init__(self, task: Task, guard: GuardCallback) -> None:
        self._task, self._guard = task, guard

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        assert self._guard.guard is not None
        self._task.asks(self._guard.guard)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self._task.beside(state.global_step)


class Stop(transformers.TrainerCallback):
    """The machine goes down after four steps."""

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        control.should_training_stop = state.global_step == 4


def usual(task: Task, folder: Path) -> dict[str, Any]:
    """Arguments of the Trainer and of those that are made from it."""
    sizes = {"max_steps": task.steps, "per_device_train_batch_size": task.batch, "logging_steps": 1}
    loading = {"dataloader_num_workers": task.workers, "remove_unused_columns": False}
    numbers = {"bf16": task.bf16, "max_grad_norm": task.clip, "lr_scheduler_type": "constant"}
    return {"output_dir": str(folder), **sizes, **loading, **numbers, **QUIET}


def train(task: Task, folder: Path) -> list[dict[str, object]]:
    """The guard's records."""
    guard = GuardCallback(on_finding=None, budget=1.0, **task.plan)
    trainer = Trainer(
        task.model,
        TrainingArguments(**usual(task, folder)),
        data_collator=task.collate,
        train_dataset=task.rows,
        optimizers=(task.made(), None),
        processing_class=task.tokenizer,
        callbacks=[guard, Between(task, guard)],
    )
    if task.half:
        halve(trainer.accelerator)
    try:
        trainer.train()
    finally:
        guard.close()
    return guard.records()
