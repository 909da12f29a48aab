"""Faults that a script asks its guard about."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sightline.attach.torch_loop import Attachment
from tests.hosts import small
from tests.hosts.planting import plants
from tests.hosts.shared.language import tokenized, usual_collator
from tests.hosts.task import Task


@plants("T8", "hf_trainer", "trl", "lightning", "accelerate")
def only_the_last_norm_learns(faulty: bool) -> Task:
    model, batch = small.language_model(), dict(usual_collator()(tokenized(4)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = not faulty or name == "model.norm.weight"
    return Task(model, tokenized(), usual_collator(), steps=2, asks=lambda guard: guard.overfit(batch))


@plants("M3", "hf_trainer", "trl", "lightning", "accelerate")
def an_accuracy_over_positions_without_a_label(faulty: bool) -> Task:
    labels = torch.tensor([[-100, -100, 5, 6, 2], [-100, 7, 8, 2, -100]])

    def accuracy(predicted: Tensor, targets: Tensor) -> float:
        right = predicted == targets
        return float(right.float().mean() if faulty else right[targets != -100].float().mean())

    def ask(guard: Attachment) -> None:
        guard.metric(accuracy, labels, labels.clamp(min=0), perfect=1.0)

    return Task(small.language_model(), tokenized(), usual_collator(), steps=2, asks=ask)


class Policy(nn.Module):
    """DPO by hand: the loss of pairs beside a reference, which is no part of the policy."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Embedding(9, 16), nn.Linear(16, 9))
        self.reference: list[nn.Module] = []

    def forward(self, input_ids: Tensor, rejected: Tensor | None = None) -> dict[str, Tensor]:
        logits = self.net(input_ids)
        if rejected is None:
            return {"logits": logits}
        gains = []
        for ids in (input_ids, rejected):
            ours, theirs = (model(ids)[:, :-1].log_softmax(-1) for model in (self.net, self.reference[0].net))
            gains.append((ours - theirs.detach()).gather(-1, ids[:, 1:, None]).sum((1, 2)))
        return {"loss": F.softplus(-0.1 * (gains[0] - gains[1])).mean(), "logits": logits}


@plants("L9", "hf_trainer", "lightning", "accelerate")
def a_reference_that_is_the_policy(faulty: bool) -> Task:
    model, draw = Policy(), torch.Generator().manual_seed(0)
    model.reference.append(model if faulty else copy.deepcopy(model).requires_grad_(False))
    rows = [{name: torch.randint(0, 9, (6,), generator=draw) for name in ("input_ids", "rejected")} for _ in range(32)]
    return Task(model, rows, steps=6, asks=lambda guard: guard.reference(model.reference[0]))
