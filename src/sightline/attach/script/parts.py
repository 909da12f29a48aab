"""Parts that share an optimizer and are called one by one: the last one called before a backward pass gives its output.

An encoder and its heads in variables of their own, or in a module that has other methods than `forward`. What the loss
was made of stands for the model's forward pass; what each part is given without gradients is an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from sightline.attach.calls import Calls
from sightline.attach.graph import nodes
from sightline.attach.hook import Hook, listening, unwrapped
from sightline.attach.recorder import Recorder
from sightline.guard.probes.call import differentiable

KEPT = 64  # calls between two backward passes: more come of a loop that does not go backward
DEEP = 4096  # nodes of a graph that are gone through for a call's output


class Parts(Calls):
    """The calls of some parts, while they train. `fault`: told of errors of our own, which end nobody's run.

    silent: those that were not called with gradients yet: who asks them without them is not judging.
    """

    def __init__(self, recorder: Recorder, parts: Sequence[nn.Module], fault: Callable[[Exception], None]) -> None:
        super().__init__(recorder)
        self.silent: set[nn.Module] = set()
        before, after = Hook(self.entered, fault), Hook(self.left, fault)
        self.handles = [h for part in parts for h in listening(unwrapped(part)[0], before, after)]
        self._last: nn.Module | None = None  # whose output losses are made of
        self._times, self._slept = 1, 0  # how often it is called before a backward pass; and was, in one asleep

    def entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Hook before a call: a step or an evaluation may begin with it."""
        r = self.recorder
        if module in self.silent:
            if not self.training:
                return
            self.silent.remove(module)
        if not self.depth and not r.muted:
            if not self.training:
                r.before_forward(module, args, kwargs)
            elif r.open_step is None and (not r.asleep or r.due):
                r.begin()
        super().entered(module, args, kwargs)

    def left(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Hook after a call."""
        if self.recorder.asleep and self.training and module is self._last:
            self._slept = (self._slept + 1) % self._times
            if not self._slept:
                self.recorder.counted()
            return
        super().left(module, args, kwargs, output)
        del self.made[:-KEPT]

    def backward(self, root: Tensor | None, *, alone: bool) -> None:
        """A backward pass is about to begin. `alone`: it can be of nobody else's outputs."""
        if self.recorder.asleep or not self.made:
            return
        if not alone and not (root is not None and _reaches(root, [output for _, output in self.made])):
            return
        if (told := self.trained()) is not None:
            last, parts = told[0].model, [call.model for call in told[1]]
            self._last, self._times, self._slept = last, parts.count(last), 0

    def stepped(self) -> None:
        """The step is over, however its gradients were made."""
        self.taken()


def _reaches(root: Tensor, outputs: Sequence[Any]) -> bool:
    """Whether a loss was made of one of these outputs, as far as its graph is gone through."""
    wanted = {tensor.grad_fn for output in outputs for tensor in differentiable(output)} - {None}
    return any(node in wanted for node in nodes([root.grad_fn], most=DEEP))
