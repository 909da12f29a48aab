"""Which parameters does an optimizer hold in vain, because the forward pass runs them under no_grad, or is detached?

A parameter without a gradient alone says little: a module may not be used, or its output not be asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import CutOffSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.reach import reach, tensors_of

STEPS = 4  # measured steps without a gradient: towers that take turns, and gates that start at zero, have had theirs
VALUES = 16  # elements of a parameter that are compared: something else than the optimizer may move it (an average)


@dataclass(frozen=True, slots=True)
class Pulled:
    """Tensor hook: a gradient came to the tensor at `place`."""

    places: set[int]
    place: int

    def __call__(self, grad: Tensor) -> None:
        self.places.add(self.place)


@dataclass(slots=True)
class Question:
    """What is asked of one training pass: its call, the names of `modules`, and where its gradients come to.

    Attributes:
        outputs: places of the outputs that the loss is made of. parameters: of the modules' parameters that a gradient
            comes to, though a script may clear it before the optimizer steps. handles: of the hooks that tell.
    """

    call: Call
    modules: list[str]
    outputs: set[int] = field(default_factory=set)
    parameters: set[int] = field(default_factory=set)
    handles: list[Any] = field(default_factory=list)

    def listen(self, tensors: Iterable[Tensor], places: set[int]) -> None:
        """Note in `places` to which of `tensors` a gradient comes."""
        for place, tensor in enumerate(tensors):
            if tensor.requires_grad:
                self.handles.append(tensor.register_hook(Pulled(places, place)))

    def close(self) -> None:
        """Listen no more."""
        for handle in self.handles:
            handle.remove()


class CutOff(Onlooker):
    """Finds the parameters without a gradient, then listens once to the modules that hold them."""

    shows: ClassVar = ("CutOffSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._steps: dict[int, int] = {}  # id of an optimizer -> measured steps of it
        self._without: dict[str, Tensor] = {}  # name -> its first values
        self._listening: Any = None  # of torch's own hooks for all modules: a copied model takes none of ours along
        self._asked: dict[int, str] = {}  # id of a module -> its name
        self._ran: dict[str, bool] = {}  # name -> whether it ran with gradients on in any of its calls
        self._last: dict[str, bool] | None = None  # the same in the step before, of a model that is not called as one
        self._held = 0
        self._question: Question | None = None
        self._over = False

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Drop what has a gradient from the candidates."""
        if self._question is not None:
            self._answer(self._question)
        if self._listening is not None:
            self._between_steps()
        if not measured or self._over or self._listening is not None:
            return
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        mine = {n: p for n, p in self.recorder.model.named_parameters() if id(p) in held and p.requires_grad}
        first = not self._steps
        if not first and id(optimizer) not in self._steps:  # several optimizers: whose turn it is cannot be told
            self._over = True
            return
        self._steps[id(optimizer)] = self._steps.get(id(optimizer), 0) + 1
        if first:
            self._without = {n: _few(p) for n, p in mine.items() if p.grad is None}
        self._without = {n: v for n, v in self._without.items() if n in mine and mine[n].grad is None}
        self._held = sum(p.numel() for p in mine.values())
        self._over = not self._without
        if not self._over and self._steps[id(optimizer)] >= STEPS:
            self._listen()

    def _listen(self) -> None:
        """Hear whether the next training forward runs these modules, and how."""
        for name, module in self.recorder.model.named_modules():
            own = [f"{name}.{n}".lstrip(".") for n, _ in module.named_parameters(recurse=False)]
            if own and all(n in self._without for n in own):
                self._asked[id(module)] = name
        if self._asked:
            self._listening = register_module_forward_hook(self._heard)
        self._over = not self._asked

    def _heard(self, module: nn.Module, *_: Any) -> None:
        name = self._asked.get(id(module))
        if name is not None and not self.recorder.muted and not torch.compiler.is_compiling():
            self._ran[name] = self._ran.get(name, False) or torch.is_grad_enabled()

    def _between_steps(self) -> None:
        """No forward pass of the model was heard, so it is called in parts: what runs in two steps in a row counts."""
        if self._last is None:
            self._last, self._ran = self._ran, {}
            return
        both = {name: on or self._last[name] for name, on in self._ran.items() if name in self._last}
        self._ran = both
        self._conclude()

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """The forward that was listened to is over. What a host's evaluation runs does not count."""
        if self._listening is None:
            return
        if not training:
            self._ran.clear()
            return
        ran = [name for name, graded in self._ran.items() if graded]
        if not self._conclude() and ran:
            self._question = Question(call, ran)
            self._question.listen(tensors_of(output), self._question.outputs)
            self._question.listen(self._parameters(ran).values(), self._question.parameters)

    def _parameters(self, modules: list[str]) -> dict[str, nn.Parameter]:
        """Those without a gradient that `modules` hold themselves."""
        named = self.recorder.model.named_parameters()
        return {n: p for n, p in named if n in self._without and n.rpartition(".")[0] in modules}

    def _answer(self, question: Question) -> None:
        """These ran with gradients on, and none came to them: do the outputs that the loss is made of hang on them?"""
        self._question = None
        question.close()
        parameters = self._parameters(question.modules)
        if not question.outputs or question.parameters or any(p.grad is not None for p in parameters.values()):
            return
        with self.recorder.silence():
            depends = reach(question.call, set(parameters), question.outputs)
        if depends:
            self._tell(question.modules, detached=True)

    def _conclude(self) -> bool:
        self.close(broken=False)
        return self._tell([name for name, graded in self._ran.items() if not graded])

    def _tell(self, names: list[str], *, detached: bool = False) -> bool:
        """Unless something else moves them: an average, say."""
        modules = dict(self.recorder.model.named_modules())
        held = {
            f"{name}.{n}".lstrip("."): p for name in names for n, p in modules[name].named_parameters(recurse=False)
        }
        if not held or not all(torch.equal(_few(p), self._without[n]) for n, p in held.items()):
            return False
        numel, steps = sum(p.numel() for p in held.values()), max(self._steps.values())
        seen = CutOffSeen(self.recorder.step, tuple(names), tuple(held), numel, self._held, steps, detached)
        self.recorder.mailbox.post([], lambda _: self.recorder.offer(seen))
        return True

    def sleeps(self) -> bool:
        """Listen again after the next measured step: every module's calls are too much to hear for longer."""
        if self._listening is not None:
            self._listening.remove()
            self._listening = None
            self._asked, self._ran = {}, {}
        return False

    def close(self, *, broken: bool) -> None:
        """Listen no more."""
        if self._listening is not None:
            self._listening.remove()
        if self._question is not None:
            self._question.close()
        self._listening, self._question, self._over = None, None, True


def _few(parameter: Tensor) -> Tensor:
    """A copy of a few of its values."""
    return parameter.detach().reshape(-1)[:VALUES].clone()
