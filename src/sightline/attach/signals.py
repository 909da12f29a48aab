"""What the connector and the token embedding gave in the present forward pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.read import rms
from sightline.guard.evidence import SignalsSeen
from sightline.guard.evidence.pictures import Pixels


@dataclass(frozen=True, slots=True)
class Gave:
    """Of one forward pass: how many vectors the connector made, whether they have a graph; magnitudes and widths."""

    features: int | None = None
    graph: bool = False
    connector: tuple[Tensor, int] | None = None
    embedding: tuple[Tensor, int] | None = None


class Signals:
    """Filled by forward hooks. `counting`: the features are wanted; `measuring`: magnitudes are."""

    def __init__(self) -> None:
        self.counting, self.measuring, self.resting = True, False, False
        self.gave = Gave()
        self.pixels: tuple[Tensor, bool] | None = None  # numbers of `Pixels`, and `small` (see `eyes.py`)

    def clear(self, *, measuring: bool) -> None:
        """A forward pass begins whose features are counted."""
        self.counting, self.measuring, self.resting = True, measuring, False
        self.gave = Gave()

    def rest(self, *, counting: bool = False) -> None:
        """Training forwards begin of which nothing is wanted. `counting`: evaluations may come without `clear`."""
        self.counting, self.measuring, self.resting = counting, False, True

    def connector_gave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of a connector's modules; the last that runs makes the features."""
        if not self.counting or (self.resting and torch.is_grad_enabled()):
            return
        given = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(given, Tensor) and given.is_floating_point() and given.dim() > 1:
            size = (rms(given), given.shape[-1]) if self.measuring else self.gave.connector
            features = given.numel() // given.shape[-1]
            self.gave = replace(self.gave, features=features, graph=given.requires_grad, connector=size)

    def embedding_gave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the token embedding."""
        if self.measuring and isinstance(output, Tensor):
            self.gave = replace(self.gave, embedding=(rms(output), output.shape[-1]))

    def evidence(self, step: int) -> tuple[list[Tensor], Callable[[list[Tensor]], SignalsSeen]] | None:
        """Magnitudes on the device, and how they become evidence once they are on the CPU."""
        connector, embedding, pixels = self.gave.connector, self.gave.embedding, self.pixels
        sizes = [] if connector is None or embedding is None else [connector, embedding]
        if not sizes and pixels is None:
            return None

        def made(values: list[Tensor]) -> SignalsSeen:
            ours, theirs = (float(values[0]), float(values[1])) if sizes else (None, None)
            one, other = (sizes[0][1], sizes[1][1]) if sizes else (None, None)
            least, most, size, spread = values[-1].tolist() if pixels is not None else (0.0,) * 4
            shown = Pixels(least, most, size, spread, pixels[1]) if pixels is not None else None
            return SignalsSeen(step, ours, one, theirs, other, shown)

        return [*(one for one, _ in sizes), *([] if pixels is None else pixels[:1])], made
