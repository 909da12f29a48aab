"""Which plain tensors does a model keep as attributes and learn nothing of, where a parameter was meant?

What somebody tends to is something else: a perturbation is moved, a tap's gradient is cleared after it was read. A
tensor that was forgotten stays one object with its values, and gradients are added to the same one for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.onlookers.hidden import show, unheld
from sightline.attach.onlookers.onlooker import Onlooker, Recording

LOOKS = 4  # measured steps in which it is as it was
FEW = 256  # of its values are compared


@dataclass(eq=False)
class Leaf:
    """One of them, as it was at the first look, and its gradient as it was at the last."""

    place: str
    module: nn.Module
    key: str
    tensor: Tensor
    version: int
    kept: Tensor
    grad: int = 0
    graded: int = 0

    def forgotten(self, passes: int) -> bool:
        """Whether it is as it was, and each of so many passes at most added to its gradient, and nobody else."""
        known, grad = (self.grad, self.graded), self.tensor.grad
        if grad is None or vars(self.module).get(self.key) is not self.tensor or self.tensor._version != self.version:
            return False
        self.grad, self.graded = id(grad), grad._version
        return not known[0] or (known[0] == self.grad and 0 < self.graded - known[1] <= passes)

    def changed(self) -> Tensor:
        """0 where its values are the same, on its device."""
        return (_few(self.tensor) != self.kept).any().float()


class Bare(Onlooker):
    """Looks for them once, and at what was found for a few steps."""

    shows: ClassVar = ("HiddenSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._leaves: list[Leaf] | None = None
        self._looks, self._passes = 0, -1

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Gradients are there: of another backward pass than at the last look?"""
        passes = self.recorder.backwards
        if not measured or self._looks >= LOOKS or passes == self._passes:
            return
        if self._leaves is None:
            self._leaves = leaves(self.recorder.model)
        self._leaves = [one for one in self._leaves if one.forgotten(passes - self._passes)]
        self._passes = passes
        self._looks = self._looks + 1 if self._leaves else LOOKS
        if self._leaves and self._looks == LOOKS:
            if left := unheld({one.place: [one.tensor] for one in self._leaves}):
                show(self.recorder, left, [one.changed() for one in self._leaves if one.place in left])
            self._leaves = []

    def close(self, *, broken: bool) -> None:
        """What belongs to the host is let go."""
        self._leaves, self._looks = [], LOOKS


def leaves(model: nn.Module) -> list[Leaf]:
    """Trainable leaf tensors that are attributes of the model's modules, and that the model does not know."""
    known = {id(p) for p in model.parameters()}
    found = []
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            free = isinstance(value, Tensor) and value.requires_grad and value.is_leaf and id(value) not in known
            if free and value.is_floating_point():
                known.add(id(value))
                place = f"{name}.{key}".lstrip(".")
                found.append(Leaf(place, module, key, value, value._version, _few(value)))
    return found


def _few(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, -(-flat.numel() // FEW))].clone()
