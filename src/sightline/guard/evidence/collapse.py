"""Representations that a loss compares with each other alone: how far those of different samples lie apart."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Vectors:
    """All outputs of one step through which the loss reached the model: sets of one vector a sample.

    Attributes:
        spread: of each set, how far directions differ: of the vectors at length 1, the root mean square distance from
            their mean (0: all are one but for their length; 1: they point everywhere alike).
        sizes: of each set, the root mean square of the deviations from the mean sample, as they are.
        turned: of each set, the part of the loss's gradients that lies along the vectors: 0 where their length does not
            matter to the loss, as in a cosine.
        pulls: of each set, the root mean square of gradient times vector: of a cosine, how far it is from its bound
            (the sine of the angle, but for a factor).
        opposed: of two sets, the sum of their gradients over these themselves, as they are or each times its vector's
            length, the least: 0 where one is drawn to the other, and the loss knows nothing else; 1.4 where they know
            nothing of each other, 2 where both are drawn the same way; 1 where they are one for all samples.
    """

    spread: tuple[float, ...]
    sizes: tuple[float, ...]
    turned: tuple[float, ...]
    pulls: tuple[float, ...]
    opposed: float


@dataclass(frozen=True, slots=True)
class CollapseSeen:
    """At the end of a run with several sets of vectors in each step (views, crops, branches).

    Attributes:
        rows: samples compared.
        began, ended: the first steps, and the last ones that were measured.
        inputs: relative spread of what the last were made of, the least.
    """

    step: int
    rows: int
    began: tuple[Vectors, ...]
    ended: tuple[Vectors, ...]
    inputs: float
