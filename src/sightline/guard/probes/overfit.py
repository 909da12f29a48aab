"""Can the model learn one batch by heart? Copies of its weights try."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from sightline.guard.evidence import IGNORE, OverfitSeen
from sightline.guard.probes.call import Call, Outcome
from sightline.guard.probes.restore import untouched

RATES = (1e-3, 1e-2)  # Adam's usual rate, and one for what starts far from its goal (adapters, fresh heads)
STEPS = 80  # of each rate: enough to learn a handful of rows by heart
SECONDS = 5.0
ENOUGH = 0.1  # of the first loss: nothing more to prove

LossOf = Callable[[nn.Module], Tensor]


class _Try(nn.Module):
    """The loss of a call. Run with other weights, so that it learns without the model: a copied module may run the
    weights of the one it was copied from, where a host has put a function of its own in place of `forward`."""

    def __init__(self, call: Call, loss_of: LossOf | None) -> None:
        super().__init__()
        self.model, self._call, self._loss_of = call.model, call, loss_of

    def forward(self) -> Tensor | None:
        return _loss(self._call, self._loss_of)

    def weights(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Copies of all parameters and buffers by name, and those of them that learn."""
        held = {n: p.detach().clone().requires_grad_(p.requires_grad) for n, p in self.named_parameters()}
        buffers = {n: b.detach().clone() for n, b in self.named_buffers()}
        return {**held, **buffers}, [p for p in held.values() if p.requires_grad]


def overfit(call: Call, step: int, loss_of: LossOf | None = None) -> OverfitSeen | None:
    """Train a copy of the weights of `call`'s model on `call` alone, without dropout: how far does its loss come down?

    `loss_of` gives the loss of a model, where the model does not return it. The parameters with requires_grad learn, by
    Adam. None where there is no loss to lower.
    """
    first, reached, taken, complete, until = None, [], 0, True, time.monotonic() + SECONDS
    with untouched(call.model), torch.enable_grad():
        attempt = _Try(call, loss_of)
        for rate in RATES:
            _settle(call.model)
            weights, learning = attempt.weights()
            if not learning:
                return None
            optimizer, least = torch.optim.Adam(learning, lr=rate), float("inf")
            for number in range(STEPS + 1):
                loss = functional_call(attempt, weights, ())
                if loss is None or not loss.requires_grad:
                    return None
                value = float(loss.detach())
                first, least, taken = value if first is None else first, min(least, value), max(taken, number)
                if value <= ENOUGH * first or number == STEPS:
                    break
                if time.monotonic() > until:
                    complete = False
                    break
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            reached.append((rate, least))
            if least <= ENOUGH * (first or 0.0):
                break
    return None if first is None else OverfitSeen(step, first, tuple(reached), taken, complete)


def _settle(model: nn.Module) -> None:
    """Train mode without the modules that draw at random."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()


def _loss(call: Call, loss_of: LossOf | None) -> Tensor | None:
    if loss_of is not None:
        return loss_of(call.model)
    result = call.run()
    return result.loss if result.loss is not None else _cross_entropy(call, result)


def _cross_entropy(call: Call, result: Outcome) -> Tensor | None:
    """Of logits with targets of their own, or with labels aligned to the input ids."""
    labels, logits = call.tensor("labels"), result.logits
    if logits is None:
        return None
    if result.targets is not None and result.targets.shape == logits.shape[:-1]:
        return cross_entropy(logits.flatten(0, -2).float(), result.targets.flatten(), ignore_index=IGNORE)
    if labels is None or labels.shape != logits.shape[:-1] or labels.dim() != 2:
        return None
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORE)
