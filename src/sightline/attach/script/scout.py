"""Finds out which models a script trains: by the optimizers it makes, and by which modules it then calls.

Nothing is guessed from names. When an optimizer is made, every living module that holds one of its parameters gets a
hook; the first that is called with gradients on, and holds most of what the optimizer is to move, is the model. The
hooks go as soon as that is settled, so that a module which is not a model runs as without us.

Some models are not called that way: a model compiled in place, layers called one by one, parts that share an optimizer.
They are watched from the optimizer's first step on: by the calls of those parts, or else by their steps alone.
"""

from __future__ import annotations

import functools
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss
from torch.nn.modules.module import register_module_module_registration_hook
from torch.optim import Optimizer

from sightline.attach.alive import modules_alive
from sightline.attach.hook import Hook, unwrapped
from sightline.attach.script.heap import apart, children, compiled_parts, holders, joined, loose, outermost
from sightline.attach.script.watch import Models, Watched

MOST = 0.8  # of an optimizer's elements: what holds them is the model, and the rest an addition (a learned temperature)
FREE = 2.0  # seconds of looking at what is alive that are always given, hundreds of looks; then 1 % of the run
SHARE = 0.01
UNMOVED = 2  # steps in a row without a gradient on anything that an optimizer holds: it holds the wrong parameters
PATIENCE = 64  # steps until an optimizer whose model was not found is left alone
SILENT = ("torch.", "torchvision.", "torchmetrics.")  # parameterless modules of these are not losses, but _Loss


@dataclass(eq=False)
class Waiting:
    """An optimizer whose model is not known yet. `parts`: modules called with gradients that hold a part of it;
    `apart`: the outermost that share it, None where that is to be looked at."""

    optimizer: weakref.ref[Optimizer]
    parts: list[weakref.ref[nn.Module]] = field(default_factory=list)
    apart: list[weakref.ref[nn.Module]] | None = None
    steps: int = 0
    unmoved: int = 0

    def held(self) -> list[Tensor]:
        """What it is to move."""
        optimizer = self.optimizer()
        return [] if optimizer is None else [p for group in optimizer.param_groups for p in group["params"]]


class Scout:
    """Attaches `models` to what a script trains. `install` once torch is there."""

    def __init__(self, models: Models, fault: Callable[[str], None]) -> None:
        self.models, self._fault = models, fault
        self._waiting: list[Waiting] = []
        self._posts: dict[int, Any] = {}
        self._registration: Any = None
        self._spent, self._began = 0.0, time.perf_counter()
        self.beheld: list[Callable[[Sequence[nn.Module], Collection[int]], None]] = []  # told of all modules alive
        self.made: list[Callable[[Optimizer], None]] = []  # told of each optimizer
        self._free: list[weakref.ref[nn.Module]] = []
        self._hook = Hook(self._called, self._failed)
        models.settled = self._settled
        models.before.append(self.before_step)
        models.attention.needs.append(lambda: bool(self._waiting))

    def install(self) -> None:
        """Notice each optimizer that is made, and models that are compiled in place."""
        make, scout = Optimizer.__init__, self

        @functools.wraps(make)
        def made(optimizer: Optimizer, *args: Any, **kwargs: Any) -> None:
            make(optimizer, *args, **kwargs)
            scout.noticed(optimizer)

        Optimizer.__init__ = made  # type: ignore[method-assign, assignment]
        compile_ = nn.Module.compile

        @functools.wraps(compile_)
        def compiled(module: nn.Module, *args: Any, **kwargs: Any) -> None:
            scout._unpost(module.modules())
            compile_(module, *args, **kwargs)

        nn.Module.compile = compiled  # type: ignore[method-assign, assignment]

    def noticed(self, optimizer: Optimizer) -> None:
        """An optimizer was made."""
        Hook(self._noticed, self._failed)(optimizer)
        for act in self.made:
            act(optimizer)

    def _noticed(self, optimizer: Optimizer) -> None:
        self.models.optimizers += 1
        self.models.let_go()
        if any(optimizer is w.optimizer() for w in self._waiting):
            return
        self._waiting = [w for w in self._waiting if w.optimizer() is not None]
        for one in self.models.live:
            if one.orphan:  # another training: of this model, or of one that needs its memory
                self.models.drop(one.attachment)
        if any(
            self._is_of(Waiting(weakref.ref(optimizer)), one.recorder.model) for one in self.models.live if one.adopted
        ):
            return
        self.wait(optimizer)

    def wait(self, optimizer: Any) -> None:
        """Look for the model of an optimizer, or of what stands for one."""
        self._waiting.append(Waiting(weakref.ref(optimizer)))
        self.models.attention.listen()
        self._look([id(p) for w in self._waiting for p in w.held()])

    # --- looking for modules -------------------------------------------------------------------------------------

    def _look(self, wanted: Iterable[int]) -> list[nn.Module]:
        """Post a hook on every module that holds a parameter of `wanted` (ids); returns the outermost of them."""
        start = time.thread_time()  # not of a wall clock, which other processes would make run faster
        if self._spent > max(FREE, SHARE * (time.perf_counter() - self._began)):
            return []
        alive, wanted = modules_alive(), frozenset(wanted)
        found = holders(alive, wanted)
        graphs = {id(part) for module in found for part in compiled_parts(module)}
        for module in found:
            if id(module) not in graphs:
                self._post(module)
        for act in self.beheld:
            act(alive, wanted)
        inside = {id(child) for module in alive for child in children(module)}
        self._free = [weakref.ref(m) for m in alive if _may_be_loss(m, nested=id(m) in inside)]
        if found and self._registration is None:
            self._registration = register_module_module_registration_hook(self._wrapped)
        self._spent += time.thread_time() - start
        return outermost(found)

    def _post(self, module: nn.Module) -> None:
        if id(module) not in self._posts:
            for waiting in self._waiting:
                waiting.apart = None
            handle = module.register_forward_pre_hook(self._hook, with_kwargs=True, prepend=True)
            self._posts[id(module)] = (weakref.ref(module), handle)

    def _posted(self) -> list[nn.Module]:
        return [module for ref, _ in self._posts.values() if (module := ref()) is not None]

    def _wrapped(self, parent: nn.Module, name: str, child: Any) -> None:
        """A module was put into another (a wrapper for compiling or for several devices): that one may be called."""
        if id(child) in self._posts and self._posts[id(child)][0]() is child:
            self._post(parent)
            self._unpost(compiled_parts(parent))

    def _unpost(self, modules: Iterable[nn.Module] | None = None) -> None:
        places = list(self._posts) if modules is None else [id(module) for module in modules]
        for place in places:
            if (post := self._posts.pop(place, None)) is not None:
                post[1].remove()
        if not self._posts and self._registration is not None:
            self._registration.remove()
            self._registration = None

    # --- deciding ------------------------------------------------------------------------------------------------

    def _called(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        """A module that holds parameters of an optimizer is called: is it the model?

        A hook that another one took away within this call is called once more, without `kwargs`: shallow copies of a
        module share their hooks.
        """
        if kwargs is None or not torch.is_grad_enabled():
            return
        inside = {id(p) for p in module.parameters() if p.requires_grad}
        claimed = []
        for waiting in self._waiting:
            sizes = {id(p): p.numel() for p in waiting.held() if p.requires_grad}
            mine = sum(size for place, size in sizes.items() if place in inside)
            if mine and len(parts := self._beside_each_other(module, waiting)) > 1:
                self._attach(joined(parts), [waiting], (module, args, kwargs), parts=parts)
                return
            if mine >= MOST * sum(sizes.values()) > 0:
                claimed.append(waiting)
            elif mine and not any(module is part() for part in waiting.parts):
                waiting.parts.append(weakref.ref(module))
            elif inside and not mine and waiting.unmoved >= UNMOVED:
                claimed.append(waiting)  # it moves nothing, and this is what learns
        if claimed:
            self._attach(module, claimed, (module, args, kwargs))

    def _beside_each_other(self, module: nn.Module, waiting: Waiting) -> list[nn.Module]:
        """The modules that share what an optimizer moves, a small head for one, where `module` is one of several."""
        if waiting.apart is None:
            wanted = {id(p): n for n, p in enumerate(waiting.held()) if p.requires_grad and p.dim() > 1}
            waiting.apart = [weakref.ref(part) for part in apart(self._posted(), wanted)]
        parts = [part for ref in waiting.apart if (part := ref()) is not None]
        return parts if any(module is part for part in parts) else []

    def _around(self, parts: Sequence[nn.Module], waiting: Waiting) -> nn.Module | None:
        """The one module that all `parts` are in, with most of what the optimizer holds: called part by part."""
        held = {id(p): p.numel() for p in waiting.held()}
        for whole in outermost(self._posted()):
            inside, mine = set(whole.modules()), sum(held.get(id(p), 0) for p in whole.parameters())
            if all(part in inside for part in parts) and mine >= MOST * sum(held.values()):
                return whole
        return None

    def _attach(
        self,
        model: nn.Module,
        claimed: list[Waiting],
        call: tuple[Any, ...] | None,
        *,
        heard: bool = False,
        parts: Sequence[nn.Module] = (),
    ) -> None:
        """Watch `model`. `call`: that of it or of a part that is just beginning: its own hook knows nothing yet.

        `heard`: it was called in this step, and will be heard from the next one on; or its `parts` were and will be.
        """
        optimizers = [o for w in claimed if (o := w.optimizer()) is not None]
        self._waiting = [w for w in self._waiting if w not in claimed]
        self._unpost(model.modules())
        if (known := self.models.watch_of(model)) is not None:  # a later stage's optimizer, of which it hears already
            known.optimizers += [o for o in optimizers if o not in known.optimizers]
            self._unpost(None if not self._waiting else ())
            if call is not None and not known.adopted and known.recorder.joined(optimizers):
                self._begin(known, model, call)
            return
        heard = heard or bool(parts)
        one = self.models.attach(model, optimizers, blind=call is None and not heard, parts=parts)
        one.recorder.beside_it = self._beside(model, optimizers)
        self._free = [ref for ref in self._free if (m := ref()) is not None and m not in set(model.modules())]
        self.models.losses.listen([m for ref in self._free if (m := ref()) is not None])
        if not self._waiting:
            self._unpost()
        if one.parts is not None and call is not None:
            one.parts.silent |= {unwrapped(part)[0] for part in parts}
            one.parts.entered(*call)
        elif call is not None:
            self._begin(one, model, call)
        elif not heard:
            one.recorder.begin()

    def _beside(self, model: nn.Module, optimizers: Sequence[Optimizer]) -> list[weakref.ref[nn.Module]]:
        """What else holds matrices that these optimizers move, and neither is in `model` nor has it inside."""
        inside, parts = {id(p) for p in model.parameters()}, set(model.modules())
        held = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
        rest = {id(p) for p in held if id(p) not in inside and p.dim() > 1}
        found = (
            [m for m in holders(self._posted(), rest) if m not in parts and model not in set(m.modules())]
            if rest
            else []
        )
        return [weakref.ref(module) for module in outermost(found)]

    @staticmethod
    def _begin(one: Watched, model: nn.Module, call: tuple[Any, ...]) -> None:
        """Tell of a call that began before there was a hook for it."""
        if unwrapped(model)[0] is model:
            one.recorder.before_forward(*call)

    def _settled(self, model: nn.Module) -> None:
        """Somebody else watches `model`, and hears its optimizers."""
        self._waiting = [w for w in self._waiting if not self._is_of(w, model)]
        self._unpost(model.modules() if self._waiting else None)

    @staticmethod
    def _is_of(waiting: Waiting, model: nn.Module) -> bool:
        inside = {id(p) for p in model.parameters()}
        return any(id(p) in inside for p in waiting.held())

    def before_step(self, optimizer: Any) -> None:
        """A step of an optimizer whose model was not called as a whole."""
        if self._waiting:
            Hook(self._stepping, self._failed)(optimizer)

    def _stepping(self, optimizer: Any) -> None:
        waiting = next((w for w in self._waiting if w.optimizer() is optimizer), None)
        if waiting is None:
            return
        waiting.steps += 1
        if any(p.grad is not None for p in waiting.held()):
            waiting.unmoved = 0
            parts = [module for ref in waiting.parts if (module := ref()) is not None]
            called = outermost(parts)
            parts = self._with_silent(called, waiting) if called else self._look([id(p) for p in waiting.held()])
            if not parts and waiting.steps > UNMOVED and not self.models.watched and len(waiting.held()) > 1:
                parts = [loose(waiting.held())]  # a model of plain tensors and functions
            if parts:
                whole = parts[0] if len(parts) == 1 else self._around(parts, waiting) or joined(parts)
                heard = len(called) == len(parts) == 1
                self._attach(whole, [waiting], None, heard=heard, parts=() if heard else called)
                return
        else:
            waiting.unmoved += 1
            if waiting.unmoved == UNMOVED:
                self._look_for_others()
        if waiting.steps >= PATIENCE:
            self._waiting.remove(waiting)
            if not self._waiting:
                self._unpost()

    def _with_silent(self, called: list[nn.Module], waiting: Waiting) -> list[nn.Module]:
        """`called`, and what holds the rest of the optimizer's parameters: a part that ran without gradients."""
        inside = {id(p) for part in called for p in part.parameters()}
        rest = [id(p) for p in waiting.held() if p.requires_grad and id(p) not in inside]
        return outermost([*called, *self._look(rest)]) if rest else called

    def _look_for_others(self) -> None:
        """An optimizer's parameters get no gradients at all: listen to whatever else could learn."""
        watched = {id(p) for one in self.models.live for p in one.recorder.model.parameters()}
        alive = modules_alive()
        learning = {id(p) for m in alive for p in m.parameters(recurse=False) if p.requires_grad}
        self._look(learning - watched)

    def _failed(self, error: Exception) -> None:
        """A fault of ours: say so, and look no further."""
        self._fault(f"{type(error).__name__}: {error}")
        self._waiting = []
        self._unpost()


def _may_be_loss(module: nn.Module, *, nested: bool) -> bool:
    if isinstance(module, _Loss):
        return True
    plain = not nested and not any(children(module)) and not module.__dict__["_parameters"]
    return plain and not type(module).__module__.startswith(SILENT)
