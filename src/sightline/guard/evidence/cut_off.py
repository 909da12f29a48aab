"""Parts of a model that run without a graph though an optimizer holds their parameters."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CutOffSeen:
    """Modules that training forwards run in vain: their parameters never had a gradient, nor ever changed.

    Attributes:
        modules: their names; `parameters`: names of their parameters, all trainable and held by the optimizer.
        numel: elements of these; `of`: of all that the optimizer holds and that is trainable.
        steps: measured steps without a gradient.
        detached: they run with gradients on, and outputs that the loss is made of hang on their parameters; else they
            run under no_grad.
    """

    step: int
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    numel: int
    of: int
    steps: int
    detached: bool = False
