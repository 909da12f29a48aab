"""Which class a loss taught for each sample, read off its gradient: only where that is surely cross-entropy's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

MOST = 1 << 20  # elements of logits that are copied: 256 samples of 4,096 classes
EXACT = 0.03  # of the weight of a sample: bf16 gradients are rounded by 2^-8, and several roundings add up
LEAST = 4  # samples whose weights must agree
MOST_TAGS = 62  # that have a bit each in one number
FEW = 1 << 13  # elements that a form is tried on before all are
TRIES = 8  # batches in a row of no known form: after them only the plain one is tried
TELLS = 0.1  # of the largest gradient of its class: a smaller one agrees with any weight


@dataclass(frozen=True, slots=True)
class Form:
    """A cross-entropy. `apart`: classes have weights of their own; `smooth`: label smoothing; `focus`: a focal loss's
    gamma, whose factor (1 - p)^gamma is a constant to the gradient where `still`."""

    apart: bool = False
    smooth: float = 0.0
    focus: float = 0.0
    still: bool = False

    def factor(self, p: Tensor) -> Tensor:
        """What the gradient of -log p, p - 1, is multiplied by."""
        rest = (1 - p).clamp(min=1e-7)
        moved = 0.0 if self.still else self.focus * p * rest ** (self.focus - 1) * p.clamp(min=1e-30).log()
        return rest**self.focus - moved


FORMS = (
    Form(),
    Form(apart=True),
    *(Form(smooth=share) for share in (0.1, 0.05, 0.15, 0.2, 0.3)),  # 0.1 in https://arxiv.org/abs/1512.00567
    *(Form(True, 0.0, gamma, still) for gamma in (2.0, 1.0, 0.5, 1.5, 2.5, 3.0, 4.0, 5.0) for still in (False, True)),
)  # gamma: 2 of 0 to 5 in https://arxiv.org/abs/1708.02002


def may_teach_classes(logits: Tensor | None, rows: int) -> bool:
    """Whether logits are (B, C), (B, 1) or (B,), small, and no comparison of all samples with all."""
    if logits is None or not logits.requires_grad or logits.dim() not in (1, 2) or len(logits) != rows:
        return False
    return logits.numel() <= MOST and logits.shape[1:] != (rows,) and rows >= LEAST


def tags_taught(logits: Tensor, grad: Tensor) -> tuple[int, ...] | None:
    """One number for each sample's set of labels, where (B, C) gradients are binary cross-entropy's; else None.

    A column has a weight of its own, and shows it in several samples.
    """
    z, g = logits.float(), grad.float()
    if z.dim() != 2 or not 2 <= z.shape[1] <= MOST_TAGS or not torch.isfinite(g).all():
        return None
    expected = z.sigmoid() - (g < 0).float()
    weight = (g * expected).sum(dim=0) / expected.square().sum(dim=0)
    largest = expected.abs().amax(dim=0)
    if not (weight > 0).all() or ((g / weight - expected).abs() > EXACT * largest).any():
        return None
    if ((expected.abs() >= TELLS * largest).sum(dim=0) < LEAST).any():
        return None
    return tuple(((g < 0).long() << torch.arange(z.shape[1])).sum(dim=1).tolist())


def pulls(logits: Tensor, grad: Tensor) -> tuple[tuple[float, float], ...]:
    """The first output of each sample, and its gradient times all outputs of the batch."""
    z, g = (one.double().reshape(len(one), -1)[:, 0] for one in (logits, grad))
    return tuple(zip(z.tolist(), (g * logits.numel()).tolist(), strict=True))


def rows_taught(grad: Tensor) -> tuple[int, ...]:
    """The places of the rows of (B, ...) outputs that have a gradient."""
    return tuple(grad.reshape(len(grad), -1).any(dim=1).nonzero()[:, 0].tolist())


class Taught:
    """Reads batch after batch of one model."""

    def __init__(self) -> None:
        self._vain = 0  # batches since the last whose loss had a known form

    def classes(self, logits: Tensor, grad: Tensor) -> tuple[int, ...] | None:
        """The class of each of B samples; None where the gradient is not cross-entropy's with one class a sample.

        With w the weight of a sample, softmax cross-entropy has the gradient w * (softmax(z) - onehot), binary
        cross-entropy w * (sigmoid(z) - y). All samples share one w, or all of a class do. Weights that are free prove
        nothing: those of a policy gradient are rewards, and what it teaches was drawn.
        """
        z, g = logits.float(), grad.float()
        if not torch.isfinite(z).all() or not torch.isfinite(g).all():
            return None
        if lone := z.dim() == 1 or z.shape[1] == 1:  # one number is a softmax's of two, of which one is 0
            z, g = z.reshape(-1, 1) * torch.tensor([0.0, 1.0]), g.reshape(-1, 1) * torch.tensor([-1.0, 1.0])
        p, some = z.softmax(dim=1), slice(max(LEAST, FEW // z.shape[1]))
        for form in FORMS if self._vain < TRIES else FORMS[:1]:
            if len(p) > some.stop and _read(form, p[some], g[some], least=0) is None:
                continue
            if (classes := _read(form, p, g, least=LEAST)) is not None and not (lone and _flat(g[:, 1], classes)):
                self._vain = 0
                return tuple(classes.tolist())
        self._vain += 1
        return None


def _flat(grad: Tensor, classes: Tensor) -> bool:
    """Whether all samples of a class have one gradient: that of any loss of alike numbers, as of pairs that differ."""
    parts = [grad[classes == one].abs() for one in classes.unique()]
    return all(float(part.max() - part.min()) <= 2 * EXACT * float(part.max()) for part in parts)


def _read(form: Form, p: Tensor, g: Tensor, *, least: int) -> Tensor | None:
    """The classes, if all gradients have this form and `least` of them show the weights that they share."""
    many, at = p.shape[1], g.argmin(dim=1)
    if form.smooth:  # one that is surer than its smoothed target is pulled back: another class has the least gradient
        rough = (g * (p - one_hot(at, many))).sum() / (p - one_hot(at, many)).square().sum()
        at = (p - g / rough).argmax(dim=1)
    expected = p - (1 - form.smooth) * one_hot(at, many) - form.smooth / many
    if form.focus:
        expected = expected * form.factor(p.gather(1, at[:, None]))
    group = at if form.apart else torch.zeros_like(at)
    zeros = torch.zeros(many, dtype=p.dtype)
    shared, sizes = (g * expected).sum(dim=1), expected.square().sum(dim=1)
    weight = (zeros.index_add(0, group, shared) / zeros.index_add(0, group, sizes))[group]
    if not torch.isfinite(weight).all() or (weight <= 0).any():
        return None
    sizes = expected.abs().amax(dim=1)
    largest = zeros.scatter_reduce(0, group, sizes, "amax")[group]
    if ((g / weight[:, None] - expected).abs().amax(dim=1) > EXACT * largest).any():
        return None
    telling = group[sizes >= TELLS * largest]
    return at if not form.apart or len(telling) - len(telling.unique()) >= least else None
