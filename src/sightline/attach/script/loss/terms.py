"""Terms of a loss that teach nothing: all that they hang on are parameters which no optimizer was ever given.

A loss is often a sum, and its terms may be of several networks. A network beside the one that is watched is seen in
the graph of the loss alone. A part that is only looked through (features, a target, a network that compares) shares its
term with something that learns; a term of its own has no other use than to train it. So it is with a number that is
made a tensor with requires_grad=True again, and added: nothing comes back through it to what it was computed with.
A loss that has weights of its own (a margin's, centres, a head beside the model) stands between the two: all ways from
the loss to the model pass these, and they should learn as it does.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sightline.attach.alive import modules_alive
from sightline.attach.graph import nodes
from sightline.attach.origins import ORIGINS
from sightline.attach.recorder import Recorder
from sightline.attach.script.again import alike, few
from sightline.attach.script.heap import holders, outermost
from sightline.guard.evidence import HiddenSeen

SUMS = ("AddBackward0", "SubBackward0", "NegBackward0", "StackBackward0")
SCALED = ("MulBackward0", "DivBackward0", "SumBackward0", "MeanBackward0")  # sums if one tensor is all they hang on
MANY = 32  # terms of a loss
DEEP = 4096  # nodes of a term that are gone through; one of what is watched meets a parameter that is held long before
NEAR = 64  # nodes between a loss and what the model gives
LATER = 16  # optimizer steps between the first look and the last: an optimizer may be made after the first step
LOOKS = 64  # backward passes that are looked at
ANEW = 8  # such numbers, one after another, none of them 0 (what a sum begins with), and no two the same


@dataclass(slots=True)
class Known:
    """What was seen of one model's losses. `first`: id of a parameter -> itself, and its values at the first look."""

    step: int = -1
    looks: int = 0
    first: dict[int, tuple[weakref.ref[Tensor], Tensor]] = field(default_factory=dict)
    made: list[float] = field(default_factory=list)
    told: bool = False


class Terms:
    """Looks at the losses of models that are awake, the first time and again some steps later."""

    def __init__(self) -> None:
        self._known: weakref.WeakKeyDictionary[Any, Known] = weakref.WeakKeyDictionary()

    def look(self, root: Tensor, recorder: Recorder) -> None:
        """A loss from which a backward pass begins, or has begun."""
        known = self._known.setdefault(recorder, Known())
        if known.looks >= LOOKS or (known.step >= 0 and recorder.step < known.step + LATER):
            return
        known.looks += 1
        if not known.told:
            self._numbers(root, recorder, known)
        alone, past = {id(p): p for p in idle(root)}, False
        if not alone:
            alone, past = {id(p): p for p in beyond(root, recorder.model)}, True
        if not alone:
            return
        if known.step < 0:
            known.step = recorder.step
            known.first = {key: (weakref.ref(p), few(p)) for key, p in alone.items()}
            return
        known.looks = LOOKS
        still = [p for key, p in alone.items() if _same(p, *known.first.get(key, (None, p)))]
        if still and len(still) == len(alone):
            self._tell(recorder, still, beyond=past)

    def _numbers(self, root: Tensor, recorder: Recorder, known: Known) -> None:
        """Is a term a tensor that was just made, with another value each time?"""
        made = numbers(root)
        if len(made) != 1:
            known.made.clear()
            return

        def arrived(values: list[Tensor]) -> None:
            known.made.append(float(values[0]))
            different = 0.0 not in known.made and len(set(known.made)) == len(known.made)
            if not different:
                known.made.clear()
            elif len(known.made) >= ANEW and not known.told:
                known.told = True
                self._unmoved(recorder)

        recorder.mailbox.post([made[0].detach()], arrived)

    @staticmethod
    def _unmoved(recorder: Recorder) -> None:
        """What never moved meanwhile of what an optimizer holds, while the rest did: that made the number."""
        mine = [(n, p) for n, p in recorder.model.named_parameters() if p.requires_grad and ORIGINS.optimized(p)]
        still = [(n, p) for n, p in mine if ORIGINS.still(p)]
        if still and any(ORIGINS.moved(p) for _, p in mine):
            names, of = tuple(name for name, _ in still), sum(p.numel() for _, p in mine)
            numel = sum(p.numel() for _, p in still)
            recorder.offer(HiddenSeen(recorder.step, names, len(still), numel, of, 0.0, loose=True))

    @staticmethod
    def _tell(recorder: Recorder, parameters: list[nn.Parameter], *, beyond: bool) -> None:
        owners = outermost(holders(modules_alive(), {id(p) for p in parameters}))
        if beyond and not any(owner.training for owner in owners):
            return  # a network that only looks
        places = tuple(type(owner).__name__ for owner in owners) or ("a function",)
        known = sum(p.numel() for p in recorder.model.parameters() if p.requires_grad)
        norms = [p.grad.float().norm().to("cpu") for p in parameters if p.grad is not None]
        norm = float(torch.stack(norms).norm()) if norms else 0.0
        numel = sum(p.numel() for p in parameters)
        recorder.offer(HiddenSeen(recorder.step, places, len(parameters), numel, known, norm, not beyond, beyond))


def idle(root: Tensor) -> list[nn.Parameter]:
    """The parameters of terms that hang on no parameter of any optimizer, where other terms do."""
    parts = terms(root.grad_fn)
    if not 1 < len(parts) <= MANY:
        return []
    found = [leaves(part) for part in parts]
    alone = [p for some in found if some is not None for p in some]
    return alone if any(some is None for some in found) else []


def beyond(root: Tensor, model: nn.Module) -> list[nn.Parameter]:
    """Matrices as they were drawn, of no optimizer, that all ways from a loss to the model or to what is held pass."""
    mine = {id(p) for p in model.parameters()}
    found: dict[int, nn.Parameter] = {}

    def passed(node: Any) -> bool:
        used = [p for behind, _ in node.next_functions if behind is not None for p in leaves(behind) or ()]
        used = [p for p in used if id(p) not in mine and p.dim() > 1 and ORIGINS.fresh(p)]
        found.update((id(p), p) for p in used)
        return bool(used)

    for node in nodes([root.grad_fn], most=NEAR, stop=passed):
        if node is None or id(v := getattr(node, "variable", None)) in mine or (v is not None and ORIGINS.optimized(v)):
            return []
    return list(found.values())


def numbers(root: Tensor) -> list[Tensor]:
    """The terms that are tensors of one element without a history, made since the last step, where others have one."""
    parts = terms(root.grad_fn)
    found = [v for part in parts if (v := getattr(part, "variable", None)) is not None]
    made = [v for v in found if type(v) is Tensor and v.numel() == 1 and v.grad is None and not ORIGINS.optimized(v)]
    return made if len(found) < len(parts) <= MANY and len(made) == len(found) else []


def terms(node: Any) -> list[Any]:
    """The nodes whose values are summed to make that of `node`, however scaled by numbers."""
    found: list[Any] = []
    open_ = [node]
    while open_ and len(found) + len(open_) <= MANY:
        one = open_.pop()
        name, behind = type(one).__name__, [next_ for next_, _ in one.next_functions if next_ is not None]
        stacked = len(behind) == 1 and (name[:3] not in ("Sum", "Mea") or type(behind[0]).__name__ == "StackBackward0")
        if name in SUMS or (name in SCALED and stacked):
            open_ += behind
        else:
            found.append(one)
    return found + open_


def leaves(node: Any) -> list[nn.Parameter] | None:
    """The parameters that a term hangs on; None where one is held by an optimizer, or something else is a leaf too."""
    found: list[nn.Parameter] = []
    for variable in variables(node):
        if not isinstance(variable, nn.Parameter) or ORIGINS.optimized(variable):
            return None
        found.append(variable)
    return found


def variables(node: Any) -> Iterator[Tensor | None]:
    """The leaves behind `node`; None, and no more, where there is more to go through than is gone through."""
    for one in nodes([node], most=DEEP):
        if one is None or (variable := getattr(one, "variable", None)) is not None:
            yield None if one is None else variable


def _same(parameter: Tensor, ref: weakref.ref[Tensor] | None, values: Tensor) -> bool:
    return ref is not None and ref() is parameter and alike(few(parameter), values)
