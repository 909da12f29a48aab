"""What every objective is to the step: terms with counts, and gradients of each term times a factor it is given.

The step asks for the counts first, adds them up over ranks, and hands back what each term's sum is to be multiplied
with. So no objective divides, and a mean is always over the whole step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from torch import Tensor, nn

from sightline.data.batch import Batch
from sightline.models.vlm import VLM
from sightline.train.objectives.balance import Balance
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import Precision

Term = str  # a loss by its name in recipes: next-token, answers, itc, sigmoid, itm, itg, mlm


class Objective(Protocol):
    """Turns the micro-batches of one step into gradients.

    Attributes:
        weights: of each term in the total loss, as the recipe gives them and the loss is told. The first term's count
            is the one that rates are told in.
        balance: what moves the weights by which the model learns; None where nothing does.
        unit: what that count counts, in a word.
        overlaps: gradients may be exchanged while the backward pass still runs (one forward pass through the wrapped
            module for each backward pass); else the step exchanges them afterwards.
    """

    weights: Mapping[Term, float]
    balance: Balance | None
    unit: str
    overlaps: bool

    def check(self, model: VLM) -> None:
        """Raise UserError where `model` cannot be trained by this objective."""

    def before_step(self, step: int, total: int) -> None:
        """Told by the loop which 0-based step of how many comes next."""

    def after_step(self, module: nn.Module) -> None:
        """Called once the optimizer has moved the weights of `module`."""

    def forward(self, module: nn.Module, batch: Batch) -> object:
        """One forward pass as this objective makes it."""

    def counts(self, batches: Sequence[Batch]) -> dict[Term, float]:
        """What each term is a mean over, in this rank's micro-batches. Known before any forward pass."""

    def backward(
        self,
        module: nn.Module,
        batches: Sequence[Batch],
        factors: Mapping[Term, float],
        precision: Precision,
        ranks: Ranks,
    ) -> dict[Term, Tensor]:
        """Accumulate the gradient of sum(factors[t] * sum of t), scaled by the precision's scaler.

        Returns this rank's sums, 0-dim fp32, without graph.
        """

    def value(self, model: VLM, batch: Batch) -> dict[Term, tuple[Tensor, float]]:
        """Each term's sum and count on one held-out batch, without gradients."""
