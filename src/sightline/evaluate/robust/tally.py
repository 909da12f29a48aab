"""What one attack at one bound did to all rows: marks, losses, and how far it moved the pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from sightline.evaluate.marks import accuracy, mean
from sightline.evaluate.robust.attacks.norms import Norm, size, tolerance
from sightline.recipe.robust import Attack


@dataclass(slots=True)
class Tally:
    """One point of a curve. Marks and losses are of the rows in their order.

    Attributes:
        marks, in_files: of the answers given attacked pixels as floats, and as files of 8 bits.
        noise: of the answers given random noise of the same size, in files.
        clean_losses, losses, noise_losses: of the true answers, in nats, given clean, attacked and noisy floats.
        over: by how much the largest difference is over the bound (below 0: within it), floats and files.
        slack: what rounding may add. low, high: the range of attacked pixels.
    """

    attack: Attack
    epsilon: float
    marks: list[float] = field(default_factory=list)
    in_files: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)
    clean_losses: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    noise_losses: list[float] = field(default_factory=list)
    over: float = float("-inf")
    over_in_files: float = float("-inf")
    slack: float = 0.0
    low: float = 1.0
    high: float = 0.0

    def moved(self, clean: Tensor, attacked: Tensor, filed: Tensor, where: Tensor | None) -> None:
        """Note how far pixels are from clean ones. `where`: a patch's place; outside of it nothing may move."""
        for name, pixels in (("over", attacked), ("over_in_files", filed)):
            delta = pixels - clean
            if where is None:
                norm: Norm = self.attack.norm
                far = float(size(delta, norm).max()) - self.epsilon
                self.slack = tolerance(delta, norm)
            else:
                far = float(delta.masked_fill(where, 0.0).abs().max())
            setattr(self, name, max(getattr(self, name), far))
        self.low, self.high = min(self.low, float(attacked.min())), max(self.high, float(attacked.max()))

    def facts(self) -> dict[str, Any]:
        """As `robustness.json` holds it."""
        return {
            "epsilon": self.epsilon,
            **accuracy(self.in_files),
            "floats": accuracy(self.marks),
            "noise": accuracy(self.noise),
            "loss": mean(self.losses),
            "clean_loss": mean(self.clean_losses),
            "noise_loss": mean(self.noise_losses),
        }
