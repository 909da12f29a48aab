"""Layers that took the place of others, of which the optimizer was not told; and weights that took that of others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReplacedSeen:
    """Parameters that get gradients, are in no optimizer and rest, beside such as only an optimizer still holds.

    Attributes:
        parameters: their names, in the model's order; `numel`: their elements.
        shapes: of each matrix among them, its shape and that of the one in whose place it stands.
        foreign: elements of what the optimizer holds instead: no module in use has them, and no gradient comes to them.
    """

    step: int
    parameters: tuple[str, ...]
    numel: int
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    foreign: int


@dataclass(frozen=True, slots=True)
class RenewedSeen:
    """Matrices of a connector when the language model wakes, beside what it had learnt alone in the stage before.

    Attributes:
        parameters: their names; `kept`: correlation of each with what the stage left.
    """

    step: int
    parameters: tuple[str, ...]
    kept: tuple[float, ...]
