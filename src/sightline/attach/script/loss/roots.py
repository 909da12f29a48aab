"""The losses of a script, whatever made them: the number from which each backward pass begins.

A loop that calls a function (`F.cross_entropy`, `(y - x).square().mean()`) shows its loss nowhere else. It is taken
where nobody else has told one: a model that returns its loss, a loss that is a module, a library's callback. What only
scales a loss is taken off again: the gradient scaler's factor, the number of micro-batches by which a loop divides.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.amp import GradScaler
from torch.optim import Optimizer

from sightline.attach.hook import Hook
from sightline.attach.open_step import Loss, OpenStep
from sightline.attach.recorder import Recorder
from sightline.attach.script.loss.axes import Axes
from sightline.attach.script.loss.casts import PassedBy
from sightline.attach.script.loss.crossed import Crossed
from sightline.attach.script.loss.divergence import show_divergence
from sightline.attach.script.loss.logits import SigmoidLoss, SoftmaxLoss, left_out
from sightline.attach.script.loss.margins import Margins
from sightline.attach.script.loss.means import Means
from sightline.attach.script.loss.renewed import Renewed
from sightline.attach.script.loss.terms import Terms
from sightline.attach.script.loss.unsound import Unsound
from sightline.attach.script.watch import Models, Watched

ROUND = 1e-6  # relative: a factor such as 1/3 is the inverse of a whole number


@dataclass(slots=True)
class Heard:
    """The roots of one step: each with the number that it was divided by at the last, 1 for none."""

    step: OpenStep
    roots: list[tuple[Loss, int]] = field(default_factory=list)


class Losses:
    """Every backward pass of the process, since `install`. `fault`: told of errors of our own."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self._models = models
        self._hook = lambda act: Hook(act, lambda error: fault(f"loss: {type(error).__name__}: {error}"))
        self._inside, self._terms, self._unsound = False, Terms(), Unsound()
        self._crossed, self._margins, self._axes = Crossed(self._hook), Margins(), Axes()
        self._casts, self._fault, self._renewed = PassedBy(), fault, Renewed(models)
        models.copied.append(self._hook(self._renewed.copied))
        self._plain: Callable[..., Any] | None = None  # torch's own, while ours is in its place
        self._wrapped: Callable[..., Any] | None = None
        self._given: Tensor | None = None  # to a library that scales it before it goes backward
        self._scaled: tuple[weakref.ref[Tensor], Tensor, weakref.ref[GradScaler]] | None = None
        self._heard: weakref.WeakKeyDictionary[Any, Heard] = weakref.WeakKeyDictionary()  # by recorder
        self._parts: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()  # by recorder: has it another
        self._divisor: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def install(self) -> None:
        """Notice where backward passes begin, and what scaled their losses."""
        self.listen()
        self._casts.blocks.install(lambda error: self._fault(f"autocast: {type(error).__name__}: {error}"))
        self._models.attention.ears.append(self)
        GradScaler.scale = self._remembered(GradScaler.scale)  # type: ignore[method-assign]
        self._models.closing.append(self._hook(self._stepping))

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {"accelerate.accelerator": self._accelerate}

    def listen(self) -> None:
        """Notice backward passes, also where a script has put its own function around torch's meanwhile."""
        if self._plain is None:
            self._plain = torch.autograd.backward
            self._wrapped = torch.autograd.backward = self._noticed(self._plain)

    def rest(self) -> None:
        """Leave them alone, unless a script has put its own function around ours."""
        if self._plain is not None and torch.autograd.backward is self._wrapped:
            torch.autograd.backward, self._plain = self._plain, None

    # --- what is wrapped -----------------------------------------------------------------------------------------

    def _noticed(self, backward: Callable[..., Any]) -> Callable[..., Any]:
        before, after = self._hook(self._begins), self._hook(self._ended)

        @functools.wraps(backward)
        def noticed(*args: Any, **kwargs: Any) -> Any:
            self._models.backwards += not self._inside
            if self._inside or not self._models.listening():
                return backward(*args, **kwargs)
            found: list[Any] = []
            before(args[0] if args else kwargs.get("tensors"), found)
            self._inside = True
            try:
                result = backward(*args, **kwargs)
            finally:
                self._inside = False
            after(*found) if found else None
            return result

        return noticed

    def _remembered(self, scale: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(scale)
        def scaled(scaler: GradScaler, outputs: Any) -> Any:
            result = scale(scaler, outputs)
            if isinstance(result, Tensor) and isinstance(outputs, Tensor):
                self._scaled = weakref.ref(result), outputs.detach(), weakref.ref(scaler)
            return result

        return scaled

    def _accelerate(self) -> None:
        from accelerate.accelerator import Accelerator

        backward = Accelerator.backward

        @functools.wraps(backward)
        def given(accelerator: Any, loss: Any, **kwargs: Any) -> Any:
            self._given = loss.detach() if isinstance(loss, Tensor) else None
            try:
                return backward(accelerator, loss, **kwargs)
            finally:
                self._given = None

        Accelerator.backward = given

    # --- a backward pass -----------------------------------------------------------------------------------------

    def _begins(self, tensors: Any, found: list[Any]) -> None:
        """Note how things stand for each model that listens, and the loss as it is now."""
        root = tensors if isinstance(tensors, Tensor) else None
        if root is None and isinstance(tensors, tuple | list) and len(tensors) == 1:
            root = tensors[0]
        for one in self._models.live:
            if one.parts is not None and one.listens:
                one.parts.backward(root, alone=len(self._models.live) == 1)
        if not isinstance(root, Tensor) or root.numel() != 1 or root.grad_fn is None:
            return
        loss, divisor = root, 1
        if self._given is not None:
            loss = self._given
        elif self._scaled is not None and self._scaled[0]() is root:
            loss, divisor = self._scaled[1], _divisor(root.grad_fn.next_functions[0][0])
        else:
            divisor = _divisor(root.grad_fn)
        live = [one for one in self._models.live if one.listens]
        only = live[0].recorder.open_step if len(live) == 1 else None
        if only is not None and self._scaled is not None and self._scaled[0]() is root:
            only.scaler = self._scaled[2]
        states = [(one, one.recorder.open_step, one.recorder.backwards, _known(one)) for one in live]
        tells: list[Any] = []
        if any(step is not None and step.measured for _, step, _, _ in states):
            first = not any(one.recorder.step for one in live)
            tells = [SoftmaxLoss.under(root), SigmoidLoss.under(root, first=first), Means.under(root)]
        self._look(root, live)
        for one, step, *_ in states if len(live) > 1 else ():
            if one.blind and step is not None:
                step.reworked = True  # whose pass it is nobody knows: this one's may have met nothing
        for one in live:
            with one.recorder.pace:
                one.recorder.onlookers.backward(root)
        flags = self._listen(root, live)
        found += [Loss.of(loss), divisor, states, tells, flags]
        if len(live) == 1 and live[0].blind and (step := live[0].recorder.open_step) is not None:
            with torch.no_grad():  # as in a hook of an output, but no output of it tells so
                live[0].recorder.backward.began(step, set(), None)
        self._crossed.look(root, [(one.recorder, step) for one, step, *_ in states])

    def _look(self, root: Tensor, live: list[Watched]) -> None:
        """What the loss says of the one model that trains. One that adapters were put around is a part of that."""
        whole = [one for one in live if not any(self._holds(other, one) for other in live if other is not one)]
        if len(whole) != 1:
            return
        recorder = whole[0].recorder
        if recorder.open_step is not None and recorder.open_step.measured:
            show_divergence(root, recorder)
            recorder.ignored = left_out(root)
            for looks in (self._margins, self._renewed, self._axes, self._casts):
                looks.look(root, recorder)
        self._terms.look(root, recorder)

    def _holds(self, one: Watched, other: Watched) -> bool:
        """Whether the second model is a part of the first."""
        known = self._parts.setdefault(one.recorder, weakref.WeakKeyDictionary())
        if other.recorder not in known:
            known[other.recorder] = any(part is other.recorder.model for part in one.recorder.model.modules())
        return known[other.recorder]

    def _listen(self, root: Tensor, live: list[Watched]) -> list[tuple[str, Tensor]]:
        """Listen inside this pass for what makes NaN of finite gradients, at the cost of whoever measures."""
        steps = [(one.recorder, one.recorder.open_step) for one in live]
        measuring = [recorder for recorder, step in steps if step is not None and step.measured]
        recorder = (measuring or [recorder for recorder, _ in steps])[0]
        with recorder.pace:
            return self._unsound.listen(root, recorder, measured=bool(measuring))

    def _ended(
        self,
        loss: Loss,
        divisor: int,
        states: list[Any],
        tells: list[Any],
        flags: list[tuple[str, Tensor]],
    ) -> None:
        """Whose loss was it? That of the one model which it reached, where nobody else has told one."""
        reached = [s for s in states if s[0].recorder.backwards > s[2] or (s[0].blind and len(states) == 1)]
        for one, step, *_ in reached if flags else ():
            if step is not None:
                self._unsound.tell(flags, one.recorder, step)
        if len(reached) != 1:
            return
        one, step, _, known = reached[0]
        if step is None or one.recorder.open_step is not step:
            return
        shown = known[1] != one.recorder.backward.came
        softmax, sigmoid, means = tells or (None, None, None)
        if softmax is not None and step.measured and (softmax.beside or softmax.doubled or not shown):
            softmax.tell(one.recorder, step, shown=shown)
        if sigmoid is not None and step.measured:
            sigmoid.tell(one.recorder)
        if means is not None and step.measured:
            means.tell(one.recorder, step)
        if known[0] != _known(one)[0] or step.told:
            return
        if one.adopted:
            step.hear(loss)
        else:
            self._keep(one.recorder, step, loss, divisor)

    def _keep(self, recorder: Recorder, step: OpenStep, loss: Loss, divisor: int) -> None:
        heard = self._heard.get(recorder)
        if heard is None or heard.step is not step:
            heard = self._heard[recorder] = Heard(step)
        heard.roots.append((loss, divisor))

    def _stepping(self, optimizer: Optimizer, those: list[Watched]) -> None:
        """An optimizer is about to step: the step's losses, as means of their micro-batches."""
        for one in those:
            heard = self._heard.pop(one.recorder, None)
            if heard is None or heard.step is not one.recorder.open_step or heard.step.losses or heard.step.unread:
                continue
            divisors, count = {divisor for _, divisor in heard.roots}, len(heard.roots)
            if divisors == {count} and count > 1:
                self._divisor[one.recorder] = count
            known = self._divisor.get(one.recorder)  # the last step of an epoch may have fewer micro-batches
            times = known if known is not None and divisors == {known} else 1
            for loss, _ in heard.roots:
                heard.step.hear(loss, times=times)


def _known(one: Watched) -> tuple[int, int]:
    """How many losses, and how many gradients of logits, others have told of the step in the making."""
    step = one.recorder.open_step
    told = 0 if step is None else len(step.losses) + len(step.unread) + len(step.told)
    return told, one.recorder.backward.came


def _divisor(node: Any) -> int:
    """The whole number that a loss was divided by at the last, 1 for none. Reads no device."""
    name, by = type(node).__name__, getattr(node, "_saved_other", None)
    if not isinstance(by, Tensor) or by.dim() or by.device.type != "cpu" or node.next_functions[1][0] is not None:
        return 1
    number = float(by)
    whole = number if name == "DivBackward0" else 1 / number if name == "MulBackward0" and number else 1.0
    return round(whole) if whole > 1 and abs(whole - round(whole)) <= ROUND * whole else 1
