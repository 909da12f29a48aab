"""A connector that had learnt, and has other weights when the language model wakes: does anything of it remain?

Its weights are kept by the model that they are of, for a stage with an optimizer of its own is watched anew.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import RenewedSeen
from sightline.guard.probes.call import Call

SAMPLE = 4096  # elements of a weight that are kept
LEAST = 64  # elements of a matrix that tells
ALONE: weakref.WeakKeyDictionary[nn.Module, Mapping[str, Tensor]] = weakref.WeakKeyDictionary()  # as last seen


class Renewed(Onlooker):
    """Keeps the connector's weights while it learns alone; compares them when the language model learns as well."""

    shows: ClassVar = ("RenewedSeen",)
    measured_only = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._asked = False

    def again(self) -> None:
        """Another stage begins, perhaps."""
        self._asked = False

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """The first batch of a stage."""
        if not training or self._asked:
            return
        self._asked = True
        model, connector = self.recorder.model, self._matrices("connector")
        awake = any(p.requires_grad for p in self._matrices("language").values())
        if not connector or not any(p.requires_grad for p in connector.values()):
            return
        now = {name: _sample(p) for name, p in connector.items()}
        before = ALONE.pop(model, {})
        if not awake:
            ALONE[model] = now
        elif before.keys() == now.keys():
            kept = torch.stack([_alike(before[name], value) for name, value in now.items()])
            step, names, offer = self.recorder.step, tuple(now), self.recorder.offer
            self.recorder.mailbox.post([kept], lambda v: offer(RenewedSeen(step, names, tuple(v[0].tolist()))))

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Keep what the stage has come to."""
        if measured and self.recorder.model in ALONE:
            ALONE[self.recorder.model] = {name: _sample(p) for name, p in self._matrices("connector").items()}

    def _matrices(self, tower: str) -> dict[str, nn.Parameter]:
        parts = self.recorder.towers.modules.get(tower, {})
        named = (
            (f"{prefix}.{name}".strip("."), p) for prefix, part in parts.items() for name, p in part.named_parameters()
        )
        return {name: p for name, p in named if p.dim() > 1 and p.numel() >= LEAST and type(p.data) is Tensor}


def _sample(parameter: nn.Parameter) -> Tensor:
    flat = parameter.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // SAMPLE)].float().clone()


def _alike(one: Tensor, other: Tensor) -> Tensor:
    """The correlation of two matrices' elements; 1, which says nothing, of other sizes."""
    if one.shape != other.shape:
        return one.new_ones(())
    return torch.nn.functional.cosine_similarity(one - one.mean(), other - other.mean(), dim=0)
