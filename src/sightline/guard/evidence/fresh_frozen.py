"""Parameters that are as an initialiser left them, do not learn, and that the loss is made through."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Place = Literal["between", "behind", "alone", "attribute", "rows", "idle"]


@dataclass(frozen=True, slots=True)
class FreshFrozenSeen:
    """Frozen matrices with an initialiser's values, straight behind frozen ones that were loaded or trained here.

    Attributes:
        parameters: their names; `numel`: their elements.
        place: what they do to the loss, with no matrix that learns in between. "between": their outputs go into frozen
            parts that were loaded or trained; "behind": what learns comes before them, and is judged through them
            alone; "alone": no matrix learns at all; "attribute": see below; "rows": they
            are tables of tokens, whose last rows were added to a trained model, and these tokens are taught; "idle":
            they are added to what was trained, times others that are all zero and frozen too.
        given: frozen matrices of the model that were loaded or trained.
        tokens: rows that were added.
        attribute: modules of theirs on which a plain attribute ``requires_grad = True`` was set, which does nothing.
    """

    step: int
    parameters: tuple[str, ...]
    numel: int
    place: Place
    given: int
    attribute: tuple[str, ...] = ()
    tokens: int = 0
