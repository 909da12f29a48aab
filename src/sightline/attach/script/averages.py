"""Averages of a 16-bit model's weights that are 16-bit numbers themselves, and stand still.

An average goes a small part of the way to the weights at each step: 1/1000 of it, or less. Rounded to 8 or 11 binary
digits that is nothing, unless the way is hundreds of spacings long. So such an average is written at each step, and
stays what the model began with (`guard/checks/precision/updates_lost_to_low_precision.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.hook import Hook
from sightline.attach.onlookers.rounding import LOW, spacing
from sightline.attach.script.checkpoints.followers import Copy, copies
from sightline.attach.script.watch import Models, Watched
from sightline.guard.evidence import AverageSeen

BEGIN, STEPS = 24, 40  # the step at which averages are looked for, and those over which they are followed
WRITTEN = 0.8  # of the looks at which it was another one than before: a copy that is refreshed now and then is not
FAR = 8.0  # spacings between a weight and its average, at the beginning and at the end, on the same side
SAMPLE = 256  # values of each tensor


@dataclass(eq=False)
class Follows:
    """One average. `began`: the step; `first`, `weights`: a few of its values and of the model's by then.

    `last`: one of its tensors at the last look, and how often it had been written; `written`: looks at which that was
    another.
    """

    one: Watched
    copy: Copy
    began: int
    first: Sequence[Tensor]
    weights: Sequence[Tensor]
    last: tuple[Tensor | None, int]
    looks: int = 0
    written: int = 0


@dataclass(eq=False)
class Averages:
    """Looks for them once for each model, before an optimizer's step. `fault`: told of errors of our own."""

    models: Models
    fault: Callable[[str], None]
    _known: list[Follows] = field(default_factory=list)
    _looked: set[int] = field(default_factory=set)

    def install(self) -> None:
        """From now on."""
        hook = Hook(self._stepping, lambda error: self.fault(f"averages: {type(error).__name__}: {error}"))
        self.models.before.append(hook)

    def _stepping(self, optimizer: Optimizer) -> None:
        for one in self.models.live:
            if one.recorder.step >= BEGIN and id(one) not in self._looked:
                self._looked.add(id(one))
                self._look(one)
        for follows in self._known.copy():
            if follows.one.attachment is None:
                self._known.remove(follows)
            else:
                self._follow(follows)

    def _look(self, one: Watched) -> None:
        model, step = one.recorder.model, one.recorder.step
        if not any(p.dtype in LOW and p.requires_grad and not hasattr(p, "to_local") for p in model.parameters()):
            return
        every = copies(model)
        if any(t.dtype not in LOW for copy in every for t in copy()):
            return  # of an average in wider numbers, one in 16 bits is only what is used
        for copy in every:
            if pairs := _pairs(model, copy):
                first, weights = zip(*pairs, strict=True)
                self._known.append(Follows(one, copy, step, first, weights, _state(copy)))

    def _follow(self, follows: Follows) -> None:
        state = _state(follows.copy)
        follows.looks += 1
        follows.written += state[0] is not follows.last[0] or state[1] != follows.last[1]
        follows.last = state
        if follows.one.recorder.step - follows.began < STEPS:
            return
        self._known.remove(follows)
        if follows.looks >= STEPS / 2 and follows.written >= WRITTEN * follows.looks:
            self._compare(follows, follows.one)

    def _compare(self, follows: Follows, one: Watched) -> None:
        """Of the values that should have moved: how many did?"""
        pairs = _pairs(one.recorder.model, follows.copy)
        if len(pairs) != len(follows.first) or one.attachment is None:
            return
        far = stayed = 0
        for was, weights, (now, goal) in zip(follows.first, follows.weights, pairs, strict=True):
            way, left, least = weights.float() - was.float(), goal.float() - now.float(), FAR * spacing(was)
            there = (way.abs() >= least) & (left.abs() >= least) & (way * left > 0)
            far, stayed = far + int(there.sum()), stayed + int((there & (was == now)).sum())
        dtype = str(pairs[0][0].dtype).removeprefix("torch.")
        one.attachment.show(AverageSeen(one.recorder.step, dtype, follows.looks, far, stayed))


def _state(copy: Copy) -> tuple[Tensor | None, int]:
    """One of its tensors, and how often that was written to."""
    tensors = copy()
    if not tensors:
        return None, 0
    return tensors[0], 0 if tensors[0].is_inference() else tensors[0]._version


def _pairs(model: nn.Module, copy: Copy) -> list[tuple[Tensor, Tensor]]:
    """A few values of each 16-bit tensor of it, and those of the model's that it goes with."""
    tensors, own = copy(), [p for p in model.parameters() if p.requires_grad]
    if len(tensors) != len(own):
        return []
    both = zip(tensors, own, strict=True)
    return [(_some(t), _some(p)) for t, p in both if t.dtype in LOW and t.dtype == p.dtype and t.shape == p.shape]


def _some(tensor: Tensor) -> Tensor:
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, len(flat) // SAMPLE)].clone()
