"""Measures an optimizer step: gradients, weights and what moved, per parameter, without waiting for the device.

Parameters are measured together, in a few operations on lists or on one long vector of samples, because on small models
the cost of a step is that of its operations, however little each has to do.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors as flatten
from torch.optim import Optimizer

from sightline.guard.evidence import ParameterSeen

SAMPLE = 4096  # watched elements of a parameter: exact for small ones, 3 % error of the update's norm for large ones


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Parameters of one device and dtype, by their places in the model.

    Every `strides`-th element of each is watched, `sizes` in all; `scales` make a norm of them one of the whole. Of
    those in `large`, which are not watched whole, the element with the largest gradient is watched besides.
    """

    places: list[int]
    strides: list[int]
    sizes: list[int]
    scales: Tensor
    large: list[int]


@dataclass(frozen=True, slots=True, eq=False)
class Before:
    """Just before a step. `named`: the parameters; `norms` (P,): gradients; `learns`: requires_grad.

    `samples`: one vector of watched values for each group; `tops`: of each large parameter, the place of its largest
    gradient, and the value there.
    """

    named: list[tuple[str, nn.Parameter]]
    norms: Tensor
    has_grad: list[bool]
    learns: list[bool]
    samples: list[Tensor]
    tops: list[list[tuple[Tensor, Tensor]]]


class Meter:
    """Measures the parameters of one model."""

    def __init__(self, model: nn.Module, tower_of: dict[str, str]) -> None:
        self.named: list[tuple[str, nn.Parameter]] = []
        self.renew(model, tower_of)
        self._groups: list[Group] = []
        self._layout: list[tuple[torch.device, torch.dtype, int]] = []

    def renew(self, model: nn.Module, tower_of: dict[str, str]) -> None:
        """Measure the parameters that the model has now. To be said between two steps."""
        self.named, self.tower_of = list(model.named_parameters()), tower_of
        self.whole = not any(hasattr(p, "to_local") for _, p in self.named)  # this rank has all of each parameter

    def grad_norms(self) -> Tensor:
        """(P,) float32 L2 norm of each parameter's gradient, 0 where it has none."""
        grads = [None if p.grad is None else _dense(p.grad) for _, p in self.named]
        found = iter(norms([grad for grad in grads if grad is not None]))
        zero = torch.zeros((), device=self.named[0][1].device)
        return _stack([zero if grad is None else next(found) for grad in grads])

    def spoiled(self) -> bool:
        """Whether any weight is NaN or infinite. Waits for the device."""
        return any(not bool(norm.isfinite()) for norm in norms([_local(p) for _, p in self.named]))

    def before(self) -> Before:
        """Look at gradients and weights just before the step."""
        has_grad, learns = [p.grad is not None for _, p in self.named], [p.requires_grad for _, p in self.named]
        locals_ = [_local(p) for _, p in self.named]
        self._arrange(locals_)
        tops = [[self._top(place, locals_[place]) for place in group.large] for group in self._groups]
        return Before(
            self.named, self.grad_norms(), has_grad, learns, [_sample(group, locals_) for group in self._groups], tops
        )

    def after(self, before: Before) -> Tensor:
        """(P, 4) float32 just after the step: gradient norm, weight norm, update norm, moved (0 or 1)."""
        locals_ = [_local(p) for _, p in self.named]
        updates: list[Tensor] = [before.norms] * len(self.named)
        moved: list[Tensor] = [before.norms] * len(self.named)
        for group, old, tops in zip(self._groups, before.samples, before.tops, strict=True):
            new = _sample(group, locals_)
            changes = norms(list((new.float() - old.float()).split(group.sizes)))
            other = norms(list((new != old).float().split(group.sizes)))
            scaled = (torch.stack(changes) * group.scales).unbind()
            for place, update, moves in zip(group.places, scaled, other, strict=True):
                updates[place], moved[place] = update, moves
            for place, (at, value) in zip(group.large, tops, strict=True):
                moved[place] = moved[place] + (locals_[place].reshape(-1).index_select(0, at) != value).float().sum()
        return torch.stack([before.norms, _stack(norms(locals_)), _stack(updates), _stack(moved)], dim=1)

    def _arrange(self, locals_: list[Tensor]) -> None:
        """Group the parameters, again whenever one has another device, dtype or size."""
        layout = [(t.device, t.dtype, t.numel()) for t in locals_]
        if layout == self._layout:
            return
        self._layout, self._groups = layout, []
        for kind in dict.fromkeys((device, dtype) for device, dtype, _ in layout):
            places = [place for place, (device, dtype, _) in enumerate(layout) if (device, dtype) == kind]
            strides = [max(1, layout[place][2] // SAMPLE) for place in places]
            sizes = [-(-layout[place][2] // stride) for place, stride in zip(places, strides, strict=True)]
            whole = [p.numel() * (1 + p.is_complex()) for p in (self.named[place][1] for place in places)]
            scales = [(numel / max(1, size)) ** 0.5 for numel, size in zip(whole, sizes, strict=True)]
            large = [place for place, stride in zip(places, strides, strict=True) if stride > 1]
            self._groups.append(Group(places, strides, sizes, torch.tensor(scales, device=kind[0]), large))

    def _top(self, place: int, values: Tensor) -> tuple[Tensor, Tensor]:
        """The place (1,) of a parameter's largest gradient, and the value there."""
        grad, at = self.named[place][1].grad, torch.zeros(1, dtype=torch.long, device=values.device)
        if grad is not None and (dense := _dense(grad)).numel() == values.numel() > 0:
            at = dense.reshape(-1).abs().argmax().view(1)
        return at, values.reshape(-1).index_select(0, at)

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
                before.named, table.tolist(), before.has_grad, before.learns, strict=True
            )
        )


def rates_of(optimizer: Optimizer, names: dict[int, str]) -> dict[str, float]:
    """Learning rate of each of the model's parameters that `optimizer` holds. `names`: id of a parameter -> name."""
    return {
        names[id(p)]: float("nan") if group.get("lr") is None else float(group["lr"])
        for group in optimizer.param_groups
        for p in group["params"]
        if id(p) in names
    }


def norms(tensors: list[Tensor]) -> list[Tensor]:
    """L2 norm of each tensor, float32; of whole numbers too, in which weights of four bits are packed."""
    if not tensors:
        return []
    with torch.no_grad():
        plain = [t.is_complex() or (t.is_floating_point() and t.dtype != torch.float64) for t in tensors]
        real = [t.detach() if keep else t.detach().float() for t, keep in zip(tensors, plain, strict=True)]
        return list(torch._foreach_norm(real, 2, dtype=torch.float32))


def _sample(group: Group, locals_: list[Tensor]) -> Tensor:
    """The watched elements of a group's parameters, one after the other."""
    if not group.large and len(group.places) > 1:  # of a single tensor it would make no copy
        return flatten([locals_[place] for place in group.places])
    parts = (locals_[place].reshape(-1) for place in group.places)
    return torch.cat([part[::stride] for part, stride in zip(parts, group.strides, strict=True)])


def _local(tensor: Tensor) -> Tensor:
    """This rank's values of a parameter (a sharded one keeps a part on each rank), complex ones as pairs."""
    local = tensor.to_local().detach() if hasattr(tensor, "to_local") else tensor.detach()
    return torch.view_as_real(local.resolve_conj()) if local.is_complex() else local


def _dense(grad: Tensor) -> Tensor:
    local = _local(grad)
    return local.coalesce().values() if local.is_sparse else local


def _stack(scalars: list[Tensor]) -> Tensor:
    """0-dim tensors as one vector on the first one's device."""
    return torch.stack([s.to(scalars[0].device) for s in scalars])
