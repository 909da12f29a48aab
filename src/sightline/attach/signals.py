"""What the connector and the token embedding gave in the present forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sightline.attach.read import rms
from sightline.guard.evidence import SignalsSeen


class Signals:
    """Filled by forward hooks. `counting`: the features are wanted; `measuring`: magnitudes are."""

    def __init__(self) -> None:
        self.counting, self.measuring = True, False
        self.features: int | None = None  # vectors that the connector made
        self.graph = False  # whether they have one
        self._connector: tuple[Tensor, int] | None = None
        self._embedding: tuple[Tensor, int] | None = None

    def clear(self, *, measuring: bool) -> None:
        """A forward pass begins whose features are counted."""
        self.counting, self.measuring = True, measuring
        self.graph, self.features, self._connector, self._embedding = False, None, None, None

    def rest(self, *, counting: bool = False) -> None:
        """Training forwards begin of which nothing is wanted. `counting`: evaluations may come without `clear`."""
        self.counting, self.measuring = counting, False

    def connector_gave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of a connector's modules; the last that runs makes the features."""
        if not self.counting:
            return
        given = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(given, Tensor) and given.is_floating_point() and given.dim() > 1:
            self.features, self.graph = given.numel() // given.shape[-1], given.requires_grad
            if self.measuring:
                self._connector = (rms(given), given.shape[-1])

    def embedding_gave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Forward hook of the token embedding."""
        if self.measuring and isinstance(output, Tensor):
            self._embedding = (rms(output), output.shape[-1])

    def evidence(self, step: int) -> tuple[list[Tensor], Callable[[list[Tensor]], SignalsSeen]] | None:
        """Magnitudes on the device, and how they become evidence once they are on the CPU."""
        connector, embedding = self._connector, self._embedding
        if connector is None or embedding is None:
            return None
        widths = connector[1], embedding[1]
        return [connector[0], embedding[0]], lambda v: SignalsSeen(step, float(v[0]), widths[0], float(v[1]), widths[1])
