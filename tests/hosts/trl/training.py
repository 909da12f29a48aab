"""How TRL's SFTTrainer trains a task of tests/hosts/task.py, whose rows are tokenized already."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from sightline.attach.trl import GuardCallback
from tests.hosts import small
from tests.hosts.half import halve
from tests.hosts.hf_trainer.training import Between, usual
from tests.hosts.task import Task


def train(task: Task, folder: Path, seen: list[dict[str, object]] | None = None) -> list[dict[str, object]]:
    """The guard's records, which are put into `seen` too, for a run that breaks off."""
    rows = task.rows if isinstance(task.rows, Dataset) else Dataset.from_list(list(task.rows))
    trainer = SFTTrainer(
        task.model,
        args=SFTConfig(**usual(task, folder), dataset_kwargs={"skip_prepare_dataset": True}),
        data_collator=task.collate,
        train_dataset=rows,
        processing_class=task.tokenizer or small.tokenizer(),
        optimizers=(task.made(), None),
    )
    if task.half:
        halve(trainer.accelerator)
    guard = GuardCallback(trainer=trainer, on_finding=None, budget=1.0, **task.plan)
    trainer.add_callback(guard)
    trainer.add_callback(Between(task, guard))
    try:
        trainer.train()
    finally:
        guard.close()
        if seen is not None:
            seen += guard.records()
    return guard.records()
