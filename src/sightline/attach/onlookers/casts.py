"""What autocast is asked for, and in which format the model's matrix products then ran: read off the autograd graph.

Every product leaves a node that knows the format and the shape of what it made. Nothing is run, and no value is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sightline.attach.graph import nodes
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import AutocastSeen
from sightline.guard.probes.call import Call, differentiable

PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution")  # what every backend's autocast lowers
NODES = 20_000  # walked at most, from the outputs on: 20 ms
WRAPS = 8  # decorators looked through
LOOKS = 4  # training forwards under autocast that are looked at: one may be unlike the others (a frozen half)


class Casts(Onlooker):
    """Looks at the first training forwards that run under autocast."""

    shows: ClassVar = ("AutocastSeen",)
    measured_only: ClassVar = True

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._looks = LOOKS
        self._told: tuple[str, str] | None = None

    def again(self) -> None:
        """Another stage may run in another format."""
        self._looks = LOOKS

    def autocast(self, device: str, dtype: str) -> None:
        """The host says that it turns autocast on around the model's forward, where no hook is inside of it."""
        self._told = (device, dtype)

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """The hook runs where the host called the model, so inside its autocast."""
        if not training or not measured or not self._looks:
            return
        outputs = differentiable(output)
        asked = (_asked(outputs[0].device.type) or self._told or decorated(call.model)) if outputs else None
        if asked is None:
            return
        self._looks -= 1
        made, elements = products(outputs)
        if made:
            seen = AutocastSeen(self.recorder.step, *asked, outputs[0].device.type, dict(made), dict(elements))
            self.recorder.mailbox.post([], lambda _: self.recorder.offer(seen))


def _asked(here: str) -> tuple[str, str] | None:
    """(device, format) of the autocast that is on, that of the model's own device first."""
    for device in dict.fromkeys((here, "cuda", "cpu")):
        if torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
            return (device, str(dtype).removeprefix("torch.")) if dtype.itemsize == 2 else None
    return None


def decorated(model: nn.Module) -> tuple[str, str] | None:
    """(device, format) of a ``torch.autocast`` that decorates the model's forward: its author's, or accelerate's."""
    function: Any = model.forward
    for _ in range(WRAPS):
        for found in _held(function):
            if isinstance(found, torch.autocast) and getattr(found, "_enabled", False):
                return found.device, str(found.fast_dtype).removeprefix("torch.")
        if (function := getattr(function, "__wrapped__", None)) is None:
            break
    return None


def _held(function: Any) -> Iterator[Any]:
    """What a function keeps from where it was made."""
    for cell in getattr(function, "__closure__", None) or ():
        with suppress(ValueError):  # nothing yet
            yield cell.cell_contents


def products(outputs: list[Tensor]) -> tuple[Counter[str], Counter[str]]:
    """Format -> matrix products (and convolutions) that led to the outputs, and -> elements that they made."""
    made: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    for node in nodes([output.grad_fn for output in outputs], most=NODES):
        if (found := product(node)) is not None:
            made[found[0]] += 1
            elements[found[0]] += found[1]
    return made, elements


def product(node: Any) -> tuple[str, int] | None:
    """(format, elements) of what a node made, if that is a matrix product or a convolution."""
    shown = getattr(node, "_input_metadata", ())
    if not shown or node.name().removesuffix("0").removesuffix("Backward") not in PRODUCTS:
        return None
    return str(shown[0].dtype).removeprefix("torch."), torch.Size(shown[0].shape).numel()
