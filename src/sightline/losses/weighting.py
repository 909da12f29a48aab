"""Several objectives, one number: fixed weights, a schedule, learned uncertainty, balanced gradient norms.

Each takes the objectives' values by name: 0-dim tensors that are already divided by their counts (`train/step.py` alone
divides). Under data parallelism a value is this rank's share, world * sum / count, and DDP averages gradients: weights
that are learned here must be among the parameters that DDP averages.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sightline.errors import UserError, nearest

LOG_VARIANCE = 20.0  # bound of an uncertainty: weights between 2e-9 and 5e8
LEAST = 1e-3  # of GradNorm: a weight of 0 has no gradient norm to grow by


class Fixed(nn.Module):
    """The same weights at every step (BLIP-2 sums its three objectives, 1:1:1)."""

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__()
        self.given = _checked(weights)

    def weights(self, step: int) -> dict[str, float]:
        """Weights at 0-based `step`."""
        return dict(self.given)

    def forward(self, values: Mapping[str, Tensor], step: int) -> Tensor:
        """The weighted sum, 0-dim."""
        return _weighted(values, self.weights(step))


class Schedule(nn.Module):
    """Weights that move in straight lines between the given (step, weight) points, level before and after them."""

    def __init__(self, points: Mapping[str, Sequence[tuple[int, float]]]) -> None:
        super().__init__()
        for name, line in points.items():
            steps = [step for step, _ in line]
            if not line or steps != sorted(set(steps)):
                raise UserError(f"{name}: steps {steps} are not a rising list", where="weighting.schedule")
            _checked({f"{name} at step {step}": weight for step, weight in line})
        self.points = {name: tuple(line) for name, line in points.items()}

    def weights(self, step: int) -> dict[str, float]:
        """Weights at 0-based `step`."""
        return {name: between(line, step) for name, line in self.points.items()}

    def forward(self, values: Mapping[str, Tensor], step: int) -> Tensor:
        """The weighted sum, 0-dim."""
        return _weighted(values, self.weights(step))


class Uncertainty(nn.Module):
    """Weights learned as each objective's noise: sum of exp(-s) value + s / 2, s = log variance.

    Kendall, Gal & Cipolla 2018 (arXiv 1705.07115), equation 10's form for a classification likelihood, which
    cross-entropies are; a squared error (`regressions`) is halved, equation 7. Of values that stay as they are the best
    s is log(2 value), of a halved one log(value).

    Args:
        names: the objectives.
        regressions: those that are squared errors.
        start: their first weights; None: s = 0.
    """

    def __init__(
        self, names: Sequence[str], regressions: Sequence[str] = (), start: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        for name in regressions:
            if name not in names:
                raise UserError(f"no objective '{name}'", where="weighting", fix=nearest(name, names))
        self.names = tuple(names)
        halves = torch.tensor([0.5 if n in regressions else 1.0 for n in names])
        self.register_buffer("halves", halves, False)
        self.log_variance = nn.Parameter(torch.zeros(len(names)))
        if start is not None:
            with torch.no_grad():
                self.log_variance.copy_((halves / _started(start, names)).log())

    halves: Tensor

    def weights(self, step: int) -> dict[str, float]:
        """Weights as they now stand."""
        return dict(zip(self.names, self._weights().tolist(), strict=True))

    def forward(self, values: Mapping[str, Tensor], step: int) -> Tensor:
        """The weighted sum with the penalty that keeps the weights from 0, 0-dim."""
        _same_names(values, self.names)
        if self.training:
            with torch.no_grad():  # an objective that stays at 0 would drive its weight to infinity, and 0 * inf is NaN
                self.log_variance.clamp_(-LOG_VARIANCE, LOG_VARIANCE)
        together = torch.stack([_wide(values[name]) for name in self.names])
        return (self._weights() * together).sum() + _wide(self.log_variance).sum() / 2

    def _weights(self) -> Tensor:
        return self.halves * (-_wide(self.log_variance)).exp()


class GradNorm(nn.Module):
    """Weights that give all objectives gradients of comparable norm, more to those that lag behind.

    Chen et al. 2018 (arXiv 1711.02257), algorithm 1. The loss of the weights is the sum over objectives of
    |w g - mean(w g) r^alpha| with the second term held constant, so its gradient is sign(.) g: no second backward pass.
    Weights start at 1, stay positive, and always sum to the number of objectives. State is in buffers.

    Args:
        names: the objectives.
        alpha: how strongly slower objectives are favoured; 0 asks for equal norms (the paper tries 0.12 to 1.5).
        lr: step size of the weights (0.025 in the paper).
        start: their first weights among each other; None: all 1.
    """

    weight: Tensor
    first: Tensor

    def __init__(
        self,
        names: Sequence[str],
        alpha: float = 1.5,
        lr: float = 0.025,
        start: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.names, self.alpha, self.lr = tuple(names), alpha, lr
        begun = torch.ones(len(names)) if start is None else _started(start, names)
        self.register_buffer("weight", begun * (len(names) / begun.sum()))
        self.register_buffer("first", torch.full((len(names),), math.nan))  # values at the first update

    def weights(self, step: int) -> dict[str, float]:
        """Weights as they now stand."""
        return dict(zip(self.names, self.weight.tolist(), strict=True))

    def forward(self, values: Mapping[str, Tensor], step: int) -> Tensor:
        """The weighted sum, 0-dim; the weights are constants to it."""
        _same_names(values, self.names)
        return (self.weight.clone() * torch.stack([_wide(values[name]) for name in self.names])).sum()

    @torch.no_grad()
    def update(self, values: Mapping[str, float], norms: Mapping[str, float]) -> None:
        """Move the weights after a step.

        Args:
            values: each objective's value over the whole step and all ranks.
            norms: norm of each objective's own, unweighted gradient with respect to the shared parameters, likewise.

        Raises:
            UserError: values or norms that are not finite, or a first value that is not positive.
        """
        _same_names(values, self.names)
        _same_names(norms, self.names)
        now = self.weight.new_tensor([float(values[n]) for n in self.names])
        norm = self.weight.new_tensor([float(norms[n]) for n in self.names])
        self.first.copy_(torch.where(self.first.isnan(), now, self.first))
        if not bool((now.isfinite() & norm.isfinite() & (self.first > 0)).all()):
            raise UserError(
                f"GradNorm needs finite norms and positive first values: values {dict(values)}, norms {dict(norms)}",
                where="weighting",
            )
        ratio = now / self.first
        pace = ratio / ratio.mean().clamp_min(torch.finfo(ratio.dtype).tiny)  # above 1: learns more slowly than others
        weighted = self.weight * norm
        moved = self.weight - self.lr * torch.sign(weighted - weighted.mean() * pace**self.alpha) * norm
        moved.clamp_min_(LEAST)
        self.weight.copy_(moved * (len(self.names) / moved.sum()))


def gradient_norms(values: Mapping[str, Tensor], shared: Sequence[Tensor]) -> dict[str, Tensor]:
    """Norm of each value's gradient with respect to `shared` parameters, graphs kept; 0 where they play no part."""
    norms = {}
    for name, value in values.items():
        grads = torch.autograd.grad(value, list(shared), retain_graph=True, allow_unused=True)
        squares = [_wide(grad).square().sum() for grad in grads if grad is not None]
        norms[name] = torch.stack(squares).sum().sqrt() if squares else torch.zeros((), device=value.device)
    return norms


def _wide(tensor: Tensor) -> Tensor:
    """In at least fp32."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _started(weights: Mapping[str, float], names: Sequence[str]) -> Tensor:
    _same_names(weights, names)
    if not all(math.isfinite(weights[name]) and weights[name] > 0 for name in names):
        raise UserError(f"learned weights cannot start at {dict(weights)}", where="weighting", fix="above 0")
    return torch.tensor([float(weights[name]) for name in names])


def _weighted(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    _same_names(values, weights)
    # A weight of 0 leaves its objective out: 0 times an infinite value would be NaN.
    return torch.stack([v * weights[n] if weights[n] else v.new_zeros(()) for n, v in values.items()]).sum()


def _same_names(values: Mapping[str, object], names: Sequence[str] | Mapping[str, float]) -> None:
    if set(values) != set(names):
        raise UserError(f"objectives {sorted(values)} are weighted as {sorted(names)}", where="weighting")


def _checked(weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"the weight of {name} is {weight}", where="weighting", fix="give a number, 0 or more")
    return dict(weights)


def between(line: Sequence[tuple[float, float]], step: float) -> float:
    """The weight at `step` of a line through rising (step, weight) points; level before and after them."""
    if step <= line[0][0]:
        return line[0][1]
    for (start, low), (stop, high) in pairwise(line):
        if step <= stop:
            return low + (high - low) * (step - start) / (stop - start)
    return line[-1][1]
