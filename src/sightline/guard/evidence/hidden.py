"""Parameters that a model uses and does not know of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HiddenSeen:
    """Parameters that modules keep in plain lists or dictionaries, get gradients, and are in no optimizer.

    Attributes:
        places: where they are kept, by the module's dotted name and the attribute, e.g. ``decoder.experts``.
        parameters: how many; `numel`: their elements; `of`: elements that the model knows and that are trainable.
        grad_norm: L2 norm of their gradients.
        term: they are in no container of the model; but the classes `places` hold them, and a term of the loss is
            theirs alone.
        beyond: they are in no container of the model; but the classes `places` hold them, they are as they were drawn,
            and the loss is made of what the model gives and of them.
        twins: they are not the model's, but of `places`; and this many parameters of the model are in two optimizers,
            one of which finds a gradient at none of its steps, though these had one each time. 0: not so.
        bare: they are in no container, but plain tensors at `places`, that stay as they are, and nobody clears their
            gradients.
        loose: they are the model's and an optimizer's, at `places`, and never moved: a term of the loss is a number
            that is made a tensor with requires_grad=True anew in each step.
        dropped: they are of `places`, in no optimizer, and stay as they are: in each step a new value of each was
            computed from it and from one that an optimizer moves, and nobody kept it.
    """

    step: int
    places: tuple[str, ...]
    parameters: int
    numel: int
    of: int
    grad_norm: float
    term: bool = False
    beyond: bool = False
    twins: int = 0
    bare: bool = False
    loose: bool = False
    dropped: bool = False
