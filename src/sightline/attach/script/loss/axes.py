"""A softmax along another axis than that of the classes: the graph under a loss tells.

Between the last layer and the softmax there are views alone, which leave all numbers in their order: so the shapes tell
which of them a softmax puts together. Along the samples it may be meant (a choice among them, contrast): that each
sample is taught a class, and no two classes alike, is told by the gradient.
"""

from __future__ import annotations

import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from sightline.attach.graph import is_log_softmax, nodes, signed
from sightline.attach.recorder import Recorder
from sightline.guard.evidence import AxisSeen
from sightline.guard.probes.fields import leaves

MOST, DEEP = 64, 8  # nodes under a loss; between a softmax and its layer
LOOKS = 3  # measured steps that showed it
VAIN = 8  # measured steps that did not end it
EVEN, UNEVEN = 1e-3, 0.05  # relative: what all samples are taught weighs the same, what classes are does not
VIEWS = ("ViewBackward", "UnsafeViewBackward", "ReshapeAliasBackward", "CloneBackward", "ToCopyBackward")
LINEAR, PLANES = ("AddmmBackward", "MmBackward"), ("ConvolutionBackward", "Upsample")
Shape = tuple[int, ...]


class Axes:
    """Looks at the losses of a process that trains one model, in measured steps."""

    def __init__(self) -> None:
        self._looks: WeakKeyDictionary[Recorder, set[int]] = WeakKeyDictionary()
        self._vain: WeakKeyDictionary[Recorder, int] = WeakKeyDictionary()
        self._over: WeakKeyDictionary[Recorder, bool] = WeakKeyDictionary()

    def look(self, root: Tensor, recorder: Recorder) -> None:
        """A backward pass begins from `root`, in a measured step."""
        if recorder in self._over:
            return
        found = [node for node in nodes([root.grad_fn], most=MOST, stop=is_log_softmax) if is_log_softmax(node)]
        taken = _shape(found[0]) if len(found) == 1 else ()
        dim = signed(found[0]._saved_dim) % len(taken) if taken else 0
        if made := across_places(found[0], taken, dim) if taken else None:
            self._tell(recorder, AxisSeen(recorder.step, made, taken, dim))
        elif _along_samples(recorder, taken, dim):
            self._listen(found[0], recorder, AxisSeen(recorder.step, taken, taken, dim, samples=True))
        else:
            self._vain[recorder] = self._vain.get(recorder, 0) + 1
            if self._vain[recorder] >= VAIN:
                self._over[recorder] = True

    def _listen(self, node: Any, recorder: Recorder, seen: AxisSeen) -> None:
        def came(inputs: Any, outputs: Any) -> None:
            if recorder.muted or not outputs or outputs[0] is None:
                return
            with torch.no_grad(), recorder.pace:
                answer = _each_sample(outputs[0].detach())
                recorder.mailbox.post([answer], lambda values: self._tell(recorder, seen) if values[0] else None)

        node.register_hook(came)

    def _tell(self, recorder: Recorder, seen: AxisSeen) -> None:
        looks = self._looks.setdefault(recorder, set())
        looks.add(seen.step)
        if len(looks) >= LOOKS and recorder not in self._over:
            self._over[recorder] = True
            recorder.offer(seen)


def across_places(node: Any, taken: Shape, dim: int) -> Shape | None:
    """The shape of the last layer's outputs, if this softmax takes several places' numbers for those of one.

    Each row of it has as many as the layer has classes, and no other axis can be these. A layer of planes (B, C, ...)
    may have a softmax along whole planes, or whole lines of them.
    """
    layer, width = _layer(node), taken[dim]
    made, name = _shape(layer), type(layer).__name__
    apart = math.prod(taken[dim + 1 :])  # of two neighbours of a row, in the order of the numbers
    if width < 2 or math.prod(made) != math.prod(taken) or taken.count(width) > 1:
        return None
    if made[-1] == width and (_biased(layer, width) or (name.startswith(LINEAR) and len(made) == 2)):
        return made if apart not in (1, width) else None
    if name.startswith(PLANES) and len(made) > 2 and made[1] == width and math.prod(made[2:]) > 1:
        lines = {math.prod(made[place:]) for place in range(2, len(made))}
        return made if apart == 1 and width not in lines else None
    return None


def _layer(node: Any) -> Any:
    """What made the numbers that a softmax was given, in their order."""
    for _ in range(DEEP):
        node = node.next_functions[0][0] if node is not None and node.next_functions else None
        if not type(node).__name__.startswith(VIEWS):
            return node
    return None


def _biased(node: Any, width: int) -> bool:
    """Whether a bias of this width was added: a linear layer does so itself where its input has gaps."""
    behind = [next_ for next_, _ in node.next_functions] if type(node).__name__ == "AddBackward0" else []
    return any(_shape(n) == (width,) and getattr(n, "variable", None) is not None for n in behind)


def _along_samples(recorder: Recorder, taken: Shape, dim: int) -> bool:
    """Whether it goes along the first axis of (B, C), and B is how many samples the model was given."""
    call = recorder.last_call
    if call is None or len(taken) != 2 or dim or taken[0] == taken[1] or min(taken) < 2:
        return False
    given = [t for t in leaves(call.args, call.kwargs).values() if t.dim()]
    return bool(given) and all(len(t) == taken[0] for t in given)


def _each_sample(grad: Tensor) -> Tensor:
    """() whether of the gradient (B, C) of log p each sample has the same sum, and classes have other ones."""
    samples, classes = grad.double().sum(dim=1), grad.double().sum(dim=0)
    apart, uneven = ((sums - sums.mean()).abs().amax() / sums.mean().abs() for sums in (samples, classes))
    return (grad <= 0).all() & (samples < 0).all() & (apart <= EVEN) & (uneven > UNEVEN)


def _shape(node: Any) -> Shape:
    """Of the first tensor that a node made; () of none."""
    made = getattr(node, "_input_metadata", None)
    return tuple(made[0].shape) if made else ()
