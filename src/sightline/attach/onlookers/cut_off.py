"""Which parameters does an optimizer hold in vain, because the forward pass runs them under no_grad, or is detached?

A parameter without a gradient alone says little: a module may not be used, or its output not be asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.optim import Optimizer

from sightline.attach.onlookers.handed_on import handed_on
from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import CutOffSeen
from sightline.guard.probes.call import Call
from sightline.guard.probes.reach import reach, tensors_of

STEPS = 4, 16  # measured steps without a gradient: gates that start at zero have opened; and again, if nobody ran then
ASKS = 16  # times that modules are listened to
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
        parts: whether what `modules` made, parts that are called one by one, was handed on by its values.
    """

    call: Call
    modules: list[str]
    outputs: set[int] = field(default_factory=set)
    parameters: set[int] = field(default_factory=set)
    handles: list[Any] = field(default_factory=list)
    parts: Tensor | None = None

    def listen(self, tensors: Iterable[Tensor], places: set[int]) -> None:
        """Note in `places` to which of `tensors` a gradient comes."""
        for place, tensor in enumerate(tensors):
            if tensor.requires_grad:
                self.handles.append(tensor.register_hook(Pulled(places, place)))

    def close(self) -> None:
        """Listen no more."""
        for handle in self.handles:
            handle.remove()


@dataclass(slots=True)
class Bare:
    """A parameter without a gradient: measured steps in a row, its first values, and how often its module was asked."""

    steps: int
    values: Tensor
    asked: int = 0


class CutOff(Onlooker):
    """Counts, parameter by parameter, the steps without a gradient, then listens to the modules that hold them.

    What can learn may change: parts are woken, another optimizer takes over. So nothing is settled by how a run began:
    a parameter that was frozen when last seen is looked at as a new one, and another optimizer's steps count anew.
    """

    shows: ClassVar = ("CutOffSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._lead: Callable[[], Optimizer | None] = lambda: None  # whose step was the last after its own pass
        self._graded: set[int] = set()  # ids of parameters that learned, and were not frozen since
        self._bare: dict[int, Bare] = {}
        self._without: dict[str, Tensor] = {}  # name -> first values, of those that are listened for
        self._listening: Any = None  # of torch's own hooks for all modules: a copied model takes none of ours along
        self._asked: dict[int, str] = {}  # id of a module -> its name
        self._ran: dict[str, bool] = {}  # name -> whether it ran with gradients on in any of its calls
        self._last: dict[str, bool] | None = None  # the same in the step before, of a model that is not called as one
        self._idle: list[str] = []  # modules that ran under no_grad in this step, if no gradient comes to them yet
        self._held, self._asks = 0, 0
        self._new = False
        self._question: Question | None = None
        self._over = False

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Count those of its parameters that have no gradient."""
        if self.recorder.open_step is not None and self._lead() is not optimizer:
            self._take_over(optimizer)
        if self._question is not None:
            self._answer(self._question)
        if self._idle:
            self._tell(self._idle)
            self._idle = []
        if self._listening is not None:
            self._between_steps()
        if not measured or self._over or self._listening is not None:
            return
        self._count([p for group in optimizer.param_groups for p in group["params"]])
        if any(_due(bare) for bare in self._bare.values()):
            self._listen()

    def _take_over(self, optimizer: Optimizer) -> None:
        """Another optimizer's turn or phase: towers that take turns are never long enough without a gradient."""
        self._lead, self._new = ref(optimizer), True
        self._bare.clear()
        self.sleeps()
        if self._question is not None:
            self._question.close()
        self._question, self._idle = None, []

    def _count(self, held: list[Tensor]) -> None:
        if self._new:
            self._new = False
            self._forget(self.recorder.model.parameters())
        self._forget(held)
        mine = [p for p in held if p.requires_grad]
        self._held = sum(p.numel() for p in mine)
        self._graded.update(id(p) for p in mine if p.grad is not None)
        for p in mine:
            if id(p) in self._graded:
                self._bare.pop(id(p), None)
                continue
            if id(p) not in self._bare:
                self._bare[id(p)] = Bare(0, _few(p))
            self._bare[id(p)].steps += 1

    def _forget(self, parameters: Iterable[Tensor]) -> None:
        """Whether the frozen ones learned once says nothing of what they do when they are woken."""
        for p in parameters:
            if not p.requires_grad:
                self._graded.discard(id(p))
                self._bare.pop(id(p), None)

    def _listen(self) -> None:
        """Hear whether the next training forward runs these modules, and how."""
        named = {n: self._bare.get(id(p)) for n, p in self.recorder.model.named_parameters()}
        self._without = {n: bare.values for n, bare in named.items() if bare is not None and bare.steps >= STEPS[0]}
        for name, module in self.recorder.model.named_modules():
            own = [f"{name}.{n}".lstrip(".") for n, _ in module.named_parameters(recurse=False)]
            if own and all(n in self._without for n in own):
                self._asked[id(module)] = name
        if self._asked:
            self._listening = register_module_forward_hook(self._heard)
        else:
            self._settle()

    def _settle(self) -> None:
        """These were asked: ask again only after many more steps."""
        for bare in self._bare.values():
            bare.asked += _due(bare)
        self._asks += 1
        self._over = self._asks >= ASKS

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
        self._tell(self._conclude(both))

    def forward(self, call: Call, output: Any, *, training: bool, measured: bool) -> None:
        """The forward that was listened to is over. What a host's evaluation runs does not count."""
        if self._listening is None:
            return
        if not training:
            self._ran.clear()
            return
        ran = [name for name, graded in self._ran.items() if graded]
        self._idle = self._conclude(self._ran)
        if not self._idle and ran:
            self._question = Question(call, ran, parts=self._handed_on(ran))
            self._question.listen(tensors_of(output), self._question.outputs)
            self._question.listen(self._parameters(ran).values(), self._question.parameters)

    def _handed_on(self, modules: list[str]) -> Tensor | None:
        """Whether parts whose modules all ran in vain made what another was given."""
        inside, vain = {id(self.recorder.model.get_submodule(name)) for name in modules}, set[int]()
        for call, _ in self.recorder.parted:
            own = [part for part in call.model.modules() if any(True for _ in part.parameters(recurse=False))]
            if own and all(id(part) in inside for part in own):
                vain.add(id(call.model))
        return handed_on(self.recorder.parted, vain) if vain else None

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
        if question.parts is not None and bool(question.parts):
            self._tell(question.modules, detached=True)
            return
        with self.recorder.silence():
            depends = reach(question.call, set(parameters), question.outputs)
        if depends:
            self._tell(question.modules, detached=True)

    def _conclude(self, ran: Mapping[str, bool]) -> list[str]:
        """Listen no more; which modules ran under no_grad."""
        self.sleeps()
        self._settle()
        return [name for name, graded in ran.items() if not graded]

    def _tell(self, names: list[str], *, detached: bool = False) -> None:
        """Unless a gradient came to them by now, or something else moves them: an average, say."""
        held = {n: p for n, p in self.recorder.model.named_parameters() if n.rpartition(".")[0] in names}
        first = [self._without.get(n) for n in held]
        same = (v is not None and torch.equal(_few(p), v) for p, v in zip(held.values(), first, strict=True))
        if not held or any(p.grad is not None for p in held.values()) or not all(same):
            return
        self._over = True
        numel = sum(p.numel() for p in held.values())
        steps = max((bare.steps for bare in self._bare.values()), default=0)
        seen = CutOffSeen(self.recorder.step, tuple(names), tuple(held), numel, self._held, steps, detached)
        self.recorder.mailbox.post([], lambda _: self.recorder.offer(seen))

    def sleeps(self) -> bool:
        """Listen again after the next measured step: every module's calls are too much to hear for longer."""
        if self._listening is not None:
            self._listening.remove()
            self._listening = None
        self._asked, self._ran, self._last, self._idle = {}, {}, None, []
        return False

    def close(self, *, broken: bool) -> None:
        """Listen no more."""
        self.sleeps()
        if self._question is not None:
            self._question.close()
        self._question, self._over = None, True


def _due(bare: Bare) -> bool:
    return bare.asked < len(STEPS) and bare.steps >= STEPS[bare.asked]


def _few(parameter: Tensor) -> Tensor:
    """A copy of a few of its values."""
    return parameter.detach().reshape(-1)[:VALUES].clone()
