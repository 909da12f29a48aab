"""What a user brings to any trainer, so that one planted fault can be handed to several hosts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from sightline.attach.torch_loop import Attachment
from tests.hosts.planting import loud, told

Rows = list[dict[str, Any]]
Fault = Callable[[bool], "Task"]


@dataclass
class Task:
    """A model and its rows. The model is called with a batch's entries by name, and gives ``loss`` and ``logits``.

    `beside` is called after each optimizer step with its number: what scripts do between steps. `asks` is called once,
    before step 1, with the guard: what a script asks of it. A host fails where it cannot do what a task wants.
    """

    model: nn.Module
    rows: Any
    collate: Callable[[Rows], Any] | None = None
    optimizer: Optimizer | None = None  # None: AdamW at `rate`
    rate: float = 1e-3
    batch: int = 8
    steps: int = 16
    workers: int = 0
    bf16: bool = False  # autocast
    half: bool = False  # a loss scale
    clip: float = 0.0
    tokenizer: Any = None
    beside: Callable[[int], None] = lambda step: None
    asks: Callable[[Attachment], None] = lambda guard: None
    plan: Mapping[str, Any] = field(default_factory=dict)  # further options of the guard

    def made(self) -> Optimizer:
        """The optimizer."""
        return self.optimizer or torch.optim.AdamW(self.model.parameters(), lr=self.rate)


class Classifier(nn.Module):
    """Any network behind a cross-entropy, as trainers want it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"logits": logits} if labels is None else {"loss": F.cross_entropy(logits, labels), "logits": logits}


def points(count: int = 64, *shape: int) -> Rows:
    """Rows of noise (of 16 numbers, or of `shape`) whose first four numbers hold their class."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randn(*(shape or (16,)), generator=draw) for _ in range(count)]
    return [{"x": x, "labels": x.flatten()[:4].argmax()} for x in rows]


def proved(fault: Any, run: Callable[[Task], list[dict[str, object]]]) -> None:
    """The fault is found by its check, and its clean twin has neither error nor warning, and was looked at."""
    records = run(fault(True))
    assert fault.plants in told(records), (told(records), [r for r in records if r["code"] == fault.plants])
    records = run(fault(False))
    assert loud(records) == [], loud(records)
    looked = {str(r["code"]): (r["kind"], r.get("why")) for r in records}[fault.plants]
    assert looked[0] in ("passed", "finding") or fault.unsure, looked
