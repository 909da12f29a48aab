"""A loss that is a plain mean, or sum, over places that a mask leaves: how many these are, and what each weighs.

What a cross-entropy supervises is read off its gradient. Of any other loss over places (soft targets, one number a
place, yes or no at each) the graph tells as much: the last thing that is done is to add up what the mask left, and the
gradient that comes to each place is its weight. Rows that were averaged one by one before weigh their places apart.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sightline.attach.graph import nodes
from sightline.attach.open_step import OpenStep
from sightline.attach.quiet import Hook
from sightline.attach.recorder import Recorder
from sightline.attach.script.loss.logits import SAME
from sightline.attach.script.loss.terms import terms

TERMS = 4  # of a loss: more are several tasks
DEEP = 12  # nodes between a sum and what computes each place
NEAR = 256  # nodes to the nearest parameter: a loss has dozens
SUMS, SCALED = ("SumBackward", "MeanBackward"), ("MulBackward0", "DivBackward0")
CHOSEN = ("Index", "MaskedSelect", "MaskedFill", "Where")
MOVED = (*SAME, "SumBackward1", "SubBackward0", "AddBackward0", "NegBackward0")
WHOLE = ("MseLoss", "SmoothL1Loss", "HuberLoss", "BinaryCrossEntropy")  # add up by themselves
EACH = ("Pow", "Abs", *WHOLE)  # computed of each place alone
MEAN = 1  # torch's number for reduction="mean"
BY_VALUE = ("Relu", "Clamp", "Threshold", "Maximum")  # beneath a choice: how hard a place is may be its reason
EVEN = 1e-3  # relative: float32 leaves 1e-6; places that were meant to weigh differently do so by more


class Sum:
    """One sum under a loss. `came`: what reached the nodes beneath its mask, the nearest first: the number of places,
    the least and the largest weight."""

    def __init__(self) -> None:
        self.came: dict[int, Tensor] = {}
        self.places = 0

    def listen(self, node: Any, number: int, whole: int = 0) -> None:
        """To what comes to a node's output of that number. `whole`: goes to so many places; below 0, shared by them."""
        node.register_prehook(Hook(partial(self._reached, self.places, number, whole), lambda _: self.came.clear()))
        self.places += 1

    @torch.no_grad()
    def _reached(self, place: int, number: int, whole: int, given: Any) -> None:
        grad = given[number] if number < len(given) else None
        if grad is None or place in self.came:
            return
        weights = grad.detach().abs().float() / (-whole if whole < 0 else 1)
        on = weights > 0
        least = weights.masked_fill(~on, math.inf).min()
        count = torch.full_like(least, float(abs(whole))) if whole else on.sum().float()
        self.came[place] = torch.stack([count, least, weights.max()])


class Means:
    """The sums under one loss. `kind`: the parameter nearest to it, so that tasks with heads of their own differ."""

    def __init__(self, found: list[Sum], kind: int) -> None:
        self._found, self._kind = found, kind

    @classmethod
    def under(cls, root: Tensor) -> Means | None:
        """Those under `root`; None where one of its terms is anything else."""
        parts = terms(root.grad_fn)
        if len(parts) > TERMS:
            return None
        found = [_sum_under(part) for part in parts]
        near = (getattr(one, "variable", None) for one in nodes([root.grad_fn], most=NEAR))
        leaf = next((variable for variable in near if variable is not None), None)
        known = [one for one in found if one is not None and one.places]
        return cls(known, id(leaf)) if len(known) == len(found) and leaf is not None else None

    def tell(self, recorder: Recorder, step: OpenStep) -> None:
        """The backward pass is over: this is what the loss was a mean of."""
        if not all(one.came for one in self._found):
            return
        sizes = [len(one.came) for one in self._found]

        def arrived(values: list[Tensor]) -> None:
            parts = [part.tolist() for part in values[0].split(sizes)]
            even = [[row for row in rows if 0 < row[2] <= (1 + EVEN) * row[1]] for rows in parts]
            if all(even) and len({rows[-1][0] for rows in even}) == 1:
                weight = sum(rows[-1][1] for rows in even)
                step.means.setdefault(self._kind, []).append((round(even[0][-1][0]), weight))

        recorder.mailbox.post([torch.stack([one.came[at] for one in self._found for at in sorted(one.came)])], arrived)


def _sum_under(node: Any) -> Sum | None:
    """What a term of a loss is a sum of, but for factors."""
    for _ in range(DEEP):
        name, live = type(node).__name__, _live(node)
        if name.startswith(WHOLE):
            return _whole(node)
        if name.startswith(SUMS) and len(live) == 1 and math.prod(_by(node, "self_sym_sizes") or ()) > 1:
            return _beneath(*live[0])
        if len(live) != 1 or not name.startswith((*SUMS, *SCALED, *MOVED)):
            return None
        node = live[0][0]
    return None


def _whole(node: Any) -> Sum | None:
    """A loss that adds up by itself, of what a mask was put to before."""
    given, found = _by(node, "self"), Sum()
    if not isinstance(given, Tensor) or not _chosen(_live(node)):
        return None
    found.listen(node, 0, -given.numel() if _by(node, "reduction") == MEAN else given.numel())
    return found


def _beneath(node: Any, number: int) -> Sum | None:
    """Listen where the gradient of a sum goes, from its mask on, until what weighs each place in its own way."""
    found, masked, first = Sum(), False, (node, number)
    for _ in range(DEEP):
        if masked:
            found.listen(node, number)
        name, live = type(node).__name__, _live(node)
        if len(live) != 1:
            break
        if name.startswith(CHOSEN):
            if type(live[0][0]).__name__.startswith(BY_VALUE):
                return None
            masked = True
        elif name.startswith(SCALED):
            if any(isinstance(by, Tensor) and by.dim() for by in (_by(node, "other"), _by(node, "self"))):
                if name == "DivBackward0":
                    break
                if not masked and _chosen(live):
                    found.listen(*first)
                masked = True
        elif not name.startswith(MOVED):
            if not masked and name.startswith(EACH) and _chosen(live):
                found.listen(*first)
            break
        node, number = live[0]
    return found


def _chosen(live: list[tuple[Any, int]]) -> bool:
    """Whether what a number of each place was computed from was chosen by a mask."""
    for _ in range(DEEP):
        if len(live) != 1:
            return False
        name = type(live[0][0]).__name__
        if name.startswith(CHOSEN[:2]):
            return True
        if not name.startswith((*SAME, *EACH, "SubBackward0", "MulBackward0", "LogSoftmax")):
            return False
        live = _live(live[0][0])
    return False


def _live(node: Any) -> list[tuple[Any, int]]:
    return [(behind, number) for behind, number in node.next_functions if behind is not None]


def _by(node: Any, name: str) -> Any:
    return getattr(node, f"_saved_{name}", None)
