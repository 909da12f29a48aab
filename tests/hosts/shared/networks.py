"""Faults of any network and its rows, whoever trains it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.hosts.planting import plants
from tests.hosts.task import Classifier, Rows, Task, points


def network(width: int = 16) -> nn.Sequential:
    """A small classifier of four classes, the same at every call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))


class Reader(nn.Module):
    """Reads (batch, time, features); `first`: whether its recurrent layer knows that."""

    def __init__(self, first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.core, self.out = nn.GRU(4, 16, batch_first=first), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x)[0][:, -1])


@plants("I4", "hf_trainer", "lightning", "accelerate")
def a_recurrent_layer_that_takes_time_for_the_batch(faulty: bool) -> Task:
    return Task(Classifier(Reader(not faulty)), points(64, 6, 4))


@plants("I5", "hf_trainer", "lightning", "accelerate")
def labels_in_an_order_of_their_own(faulty: bool) -> Task:
    draw = torch.Generator().manual_seed(2)

    def collate(rows: Rows) -> dict[str, Tensor]:
        order = torch.randperm(len(rows), generator=draw)
        labels = torch.stack([row["labels"] for row in rows])
        return {"x": torch.stack([row["x"] for row in rows]), "labels": labels[order] if faulty else labels}

    return Task(Classifier(network()), points(32), collate, batch=16, steps=12)


@plants("M2", "hf_trainer", "lightning", "accelerate")
def units_that_are_dead_from_the_start(faulty: bool) -> Task:
    net = network()
    if faulty:
        nn.init.constant_(net[0].bias, -100.0)
    return Task(Classifier(net), points(), steps=20)
