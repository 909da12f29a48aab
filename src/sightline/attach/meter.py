"""Measures an optimizer step: gradients, weights and what moved, per parameter, without waiting for the device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.guard.evidence import ParameterSeen

SAMPLE = 4096  # watched elements of a parameter: exact for small ones, 3 % error of the update's norm for large ones


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """Just before a step. `norms` (P,): gradients; `watched`: places and values to compare; `learns`: requires_grad."""

    norms: Tensor
    has_grad: list[bool]
    watched: list[tuple[Tensor, Tensor]]
    learns: list[bool]


class Meter:
    """Measures the parameters of one model."""

    def __init__(self, model: nn.Module, tower_of: dict[str, str]) -> None:
        self.named = list(model.named_parameters())
        self.tower_of = tower_of

    def grad_norms(self) -> Tensor:
        """(P,) float32 L2 norm of each parameter's gradient, 0 where it has none."""
        grads = [_dense(p.grad) for _, p in self.named if p.grad is not None]
        found = iter(norms(grads))
        zero = torch.zeros((), device=self.named[0][1].device)
        return _stack([next(found) if p.grad is not None else zero for _, p in self.named])

    def before(self) -> Before:
        """Look at gradients and weights just before the step."""
        watched = [_watched(_local(p), None if p.grad is None else _dense(p.grad)) for _, p in self.named]
        has_grad, learns = [p.grad is not None for _, p in self.named], [p.requires_grad for _, p in self.named]
        return Before(self.grad_norms(), has_grad, watched, learns)

    def after(self, before: Before) -> Tensor:
        """(P, 4) float32 just after the step: gradient norm, weight norm, update norm, moved (0 or 1)."""
        updates, moved = [], []
        for (_, p), (places, old) in zip(self.named, before.watched, strict=True):
            new = _local(p).reshape(-1).index_select(0, places)
            scale = (p.numel() / max(1, len(places) - 1)) ** 0.5
            updates.append((new[:-1].float() - old[:-1].float()).norm() * scale)
            moved.append((new != old).any().float())
        weights = norms([_local(p) for _, p in self.named])
        return torch.stack([before.norms, _stack(weights), _stack(updates), _stack(moved)], dim=1)

    def seen(self, table: Tensor, before: Before, rates: dict[str, float]) -> tuple[ParameterSeen, ...]:
        """The measured table on the CPU as evidence. `rates`: name -> learning rate of those the optimizer holds."""
        return tuple(
            ParameterSeen(
                name=name,
                tower=self.tower_of.get(name, "other"),
                numel=p.numel(),
                dtype=str(p.dtype).removeprefix("torch."),
                trainable=learns,
                optimized=name in rates,
                learning_rate=rates.get(name),
                grad_norm=grad if has else None,
                weight_norm=weight,
                update_norm=update,
                moved=bool(moved),
            )
            for (name, p), (grad, weight, update, moved), has, learns in zip(
                self.named, table.tolist(), before.has_grad, before.learns, strict=True
            )
        )


def rates_of(optimizer: Optimizer, names: dict[int, str]) -> dict[str, float]:
    """Learning rate of each of the model's parameters that `optimizer` holds. `names`: id of a parameter -> name."""
    return {
        names[id(p)]: float(group.get("lr", float("nan")))
        for group in optimizer.param_groups
        for p in group["params"]
        if id(p) in names
    }


def norms(tensors: list[Tensor]) -> list[Tensor]:
    """L2 norm of each tensor, float32."""
    if not tensors:
        return []
    with torch.no_grad():
        return list(torch._foreach_norm([t.detach() for t in tensors], 2, dtype=torch.float32))


def _watched(values: Tensor, grad: Tensor | None) -> tuple[Tensor, Tensor]:
    """Places (n + 1,) and values there: a strided sample, and where the gradient is largest."""
    flat = values.reshape(-1)
    stride = max(1, flat.numel() // SAMPLE)
    places = torch.arange(0, flat.numel(), stride, device=flat.device)
    top = torch.zeros(1, dtype=torch.long, device=flat.device)
    if grad is not None and grad.numel() == flat.numel() > 0:
        top = grad.detach().reshape(-1).abs().argmax().view(1)
    places = torch.cat([places, top])
    return places, flat.index_select(0, places)


def _local(tensor: Tensor) -> Tensor:
    """This rank's values of a parameter (a sharded one keeps a part on each rank)."""
    return tensor.to_local().detach() if hasattr(tensor, "to_local") else tensor.detach()


def _dense(grad: Tensor) -> Tensor:
    local = _local(grad)
    return local.coalesce().values() if local.is_sparse else local


def _stack(scalars: list[Tensor]) -> Tensor:
    """0-dim tensors as one vector on the first one's device."""
    return torch.stack([s.to(scalars[0].device) for s in scalars])
