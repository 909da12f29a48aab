"""How a loop with `accelerate` trains a task of tests/hosts/task.py."""

from __future__ import annotations

from itertools import chain, islice, repeat
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.data import DataLoader, IterableDataset

from sightline.attach.accelerate import attach
from tests.hosts.half import halve
from tests.hosts.task import Task


def train(task: Task, folder: Path) -> list[dict[str, object]]:
    """The guard's records. The loop of accelerate's own examples."""
    AcceleratorState._reset_state(reset_partial_state=True)  # each task settles its own precision
    accelerator = Accelerator(cpu=True, mixed_precision="bf16" if task.bf16 else "no")
    if task.half:
        halve(accelerator)
    torch.manual_seed(1)
    shuffle = not isinstance(task.rows, IterableDataset)
    batches = DataLoader(task.rows, task.batch, shuffle, collate_fn=task.collate, num_workers=task.workers)
    model, optimizer, batches = accelerator.prepare(task.model, task.made(), batches)
    options = {"tokenizer": task.tokenizer, "on_finding": None, "budget": 1.0, **task.plan}
    with attach(accelerator, model, optimizer, batches, **options) as guard:
        task.asks(guard)
        model.train()
        for step, batch in enumerate(islice(chain.from_iterable(repeat(batches)), task.steps), start=1):
            accelerator.backward(model(**batch)["loss"])
            if task.clip:
                accelerator.clip_grad_norm_(model.parameters(), task.clip)
            optimizer.step()
            optimizer.zero_grad()
            task.beside(step)
    return guard.records()
