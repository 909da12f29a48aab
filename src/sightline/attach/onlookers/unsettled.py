"""Weights divided by a largest singular value that nobody estimated: spectral norm before its first training pass."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import UnsettledSeen
from sightline.guard.probes.call import Call

ITERATIONS = 16  # of the power method, from two starts: a few percent below the true value at worst


class Unsettled(Onlooker):
    """Looks at what evaluations left behind: a forward pass puts the divided weight on the module.

    One may have run before anybody trained, so it looks at once, and after each first evaluation of a round.
    """

    shows: ClassVar = ("UnsettledSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        found = ((m, h) for m in recorder.model.modules() for h in m._forward_pre_hooks.values())
        self._normed = [(m, h) for m, h in found if isinstance(h, SpectralNorm)]
        self._ran = [norm for m, h in self._normed if (norm := _norm(m, h)) is not None]
        self._settled = False

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """Tell of a forward pass before the first that trains; look at those that judge."""
        if not self._normed or self._settled:
            return
        if training:
            self._settled = all(m.training for m, _ in self._normed)
        else:
            self._ran = [norm for m, h in self._normed if not m.training and (norm := _norm(m, h)) is not None]
        if self._ran:
            norms, self._ran = torch.stack(self._ran), []
            step = self.recorder.step
            self.recorder.mailbox.post(
                [norms], lambda v: self.recorder.offer(UnsettledSeen(step, tuple(v[0].tolist())))
            )


def _norm(module: nn.Module, hook: SpectralNorm) -> Tensor | None:
    """The largest singular value of the weight that the last forward pass used; None where there was none."""
    used, raw = getattr(module, hook.name, None), getattr(module, f"{hook.name}_orig", None)
    if not isinstance(used, Tensor) or not isinstance(raw, Tensor) or used.data_ptr() == raw.data_ptr():
        return None
    with torch.no_grad():
        matrix = hook.reshape_weight_to_matrix(used.detach()).float()
        sides = torch.stack([matrix.abs().sum(0), matrix[0]], dim=1)
        for _ in range(ITERATIONS):
            sides = matrix.T @ (matrix @ nn.functional.normalize(sides, dim=0))
        return sides.norm(dim=0).max().sqrt()
