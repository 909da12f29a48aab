"""The models of a script that are watched: attached, listened to, let go when the script is done with them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from sightline.attach.feed import Feed
from sightline.attach.hook import Hook, Stepped, hooked, unwrapped
from sightline.attach.recorder import Recorder
from sightline.attach.script.heap import tokenizer_for
from sightline.attach.script.loss.modules import LossModules
from sightline.attach.script.parts import Parts
from sightline.attach.script.rest import Attention
from sightline.attach.setup import Facts, embedding_of
from sightline.attach.torch_loop import Attachment
from sightline.guard.check import Finding
from sightline.guard.watch import Watch

WRAPPERS = 1  # hooks' worth of time that this module takes from each step beside the one of its recorder


@dataclass(eq=False)
class Watched:
    """One model. `blind`: no forward pass of it is heard, so each step begins where the last one ended. `parts`: they
    are called one by one.

    `adopted`: somebody else attached, a library's callback or the script itself, and it hears its steps by itself;
    `orphan`: and that library's Trainer is gone.
    """

    kind: str
    attachment: Attachment | None
    recorder: Recorder
    optimizers: list[Optimizer]
    blind: bool
    references: int
    adopted: bool = False
    orphan: bool = False
    parts: Parts | None = None
    after: Callable[..., None] = lambda *_: None
    rank: int | None = field(default_factory=lambda: _rank())
    records: list[dict[str, object]] = field(default_factory=list)
    steps: int = 0
    name: str = ""

    @property
    def listens(self) -> bool:
        """Whether it hears the step in the making."""
        return self.attachment is not None and self.recorder.open_step is not None


class Models:
    """All models that are watched. `tell` is called with each new finding, `fault` with an error of the guard's own."""

    def __init__(self, budget: float, tell: Callable[[Finding], None], fault: Callable[[str], None]) -> None:
        self._budget, self._tell, self._fault = budget, tell, fault
        self.watched: list[Watched] = []
        self.backwards = self.optimizers = 0  # in the process: backward passes begun, optimizers of torch made
        self.over = False  # the script came to its end
        self._routes: dict[int, tuple[Any, list[Watched]]] = {}
        self.losses = LossModules(lambda: [one.recorder for one in self.live], fault)
        self.others: list[Callable[[], list[nn.Module]]] = []  # modules that are not trained and have hooks of ours
        self.copied: list[Callable[[nn.Module], None]] = []  # told of what was copied or given a state
        self.read: list[Callable[[nn.Module], None]] = []  # told of what a library made of a file
        self.settled: Callable[[nn.Module], None] | None = None
        self.heard: list[Callable[[Watched], None]] = []  # told of one whose calls as a whole are heard from now on
        self.before: list[Callable[[Optimizer], None]] = []  # told before any optimizer's step
        self.entering: list[Callable[[Watched], None]] = []  # told of each that is watched from now on
        self.ending: list[Callable[[Watched], None]] = []  # told before one is judged for the last time
        self.closing: list[Callable[[Optimizer, list[Watched]], None]] = []  # told before and after it steps
        self.attention = Attention(self._before_step, lambda: all(map(_sleeps, self.live)))
        self._handles = [register_optimizer_step_post_hook(self.after_step)]

    def attach(
        self, model: nn.Module, optimizers: Sequence[Optimizer], *, blind: bool, parts: Sequence[nn.Module] = ()
    ) -> Watched:
        """Watch `model` from now on. `blind`: its forward passes cannot be heard; `parts`: theirs are, in its place."""
        called, inner = unwrapped(model)
        embedding, before = embedding_of(inner), sys.getrefcount(inner)
        rows = embedding.num_embeddings if embedding is not None else None
        facts, watch = Facts(tokenizer=tokenizer_for(rows)), Watch(on_finding=self._tell, on_fault=self._broke)
        attachment = Attachment(inner, optimizers[0], None, None, facts, watch, self._budget, None, None)
        recorder = attachment._recorder
        recorder.optimizers += [o for o in optimizers[1:] if o not in recorder.optimizers]
        one = Watched(type(inner).__name__, attachment, recorder, list(optimizers), blind, 0)
        fault = functools.partial(self._give_up, one)
        one.after = Stepped(recorder, recorder.after_step, fault)
        attachment._handles = hooked(recorder, called, None, fault, not blind and not parts, steps=False)
        if parts:
            one.parts = Parts(recorder, parts, fault)
            attachment._handles += one.parts.handles
        recorder.pace.inner += WRAPPERS + 2 * len(parts)
        one.references = sys.getrefcount(inner) - before
        self._enter(one)
        if called is inner and not blind and not parts:  # inside a compiled graph there is nothing to hear
            for act in self.heard:
                act(one)
        return one

    def adopt(self, attachment: Attachment) -> None:
        """Somebody attached to a model of the script: its verdicts are told with ours, and we keep off that model."""
        recorder, inner = attachment._recorder, attachment.model
        mine = {id(p) for p in inner.parameters()}
        for one in self.live:
            if one.adopted <= one.orphan and any(id(p) in mine for p in one.recorder.model.parameters()):
                self.close(one, whole=True)
        own = attachment.watch._on_finding
        if own is None:
            attachment.watch._on_finding = self._tell
        attachment.watch._on_fault = attachment.watch._on_fault or self._broke
        self._enter(Watched(type(inner).__name__, attachment, recorder, [], False, 0, adopted=True))
        if self.settled is not None:
            self.settled(inner)

    def _enter(self, one: Watched) -> None:
        self.watched.append(one)
        if one.recorder.ears is not None:
            one.recorder.ears.also(self.attention.awake)
        self._name_apart()
        self._routes.clear()
        for act in self.entering:
            act(one)

    def watch_of(self, model: nn.Module) -> Watched | None:
        """The watch that hears this very model already, with any optimizer's steps. None if parts are new."""
        inner = unwrapped(model)[1]
        known = next((one for one in self.live if one.recorder.model is inner and not one.blind), None)
        measured = {id(p) for _, p in known.recorder.meter.named} if known is not None else set()
        if known is None or known.adopted or all(id(p) in measured for p in inner.parameters()):
            return known
        self.close(known, whole=True)
        return None

    def drop(self, attachment: Attachment | None) -> None:
        """The script let go of what `attachment` watches: judge what is known without running the model again."""
        for one in [one for one in self.live if one.attachment is attachment]:
            one.recorder.last_call = None
            self.close(one, whole=True)

    def _name_apart(self) -> None:
        kinds = [one.kind for one in self.watched]
        for place, (one, kind) in enumerate(zip(self.watched, kinds, strict=True)):
            one.name = kind if kinds.count(kind) == 1 else f"{kind} {kinds[: place + 1].count(kind)}"

    @property
    def live(self) -> list[Watched]:
        """Those that the script may still train."""
        return [one for one in self.watched if one.attachment is not None]

    def listening(self) -> bool:
        """Whether any of them hears the step in the making. A plain loop, for each backward pass asks."""
        for one in self.watched:  # noqa: SIM110
            if one.listens:
                return True
        return False

    # --- steps ---------------------------------------------------------------------------------------------------

    def _before_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        for act in self.before:
            act(optimizer)
        if self._asleep(optimizer) is not None:
            return
        those = self._closing(optimizer)
        others = [one for one in self.live if not one.adopted and not any(one is o for o in those)]
        for one in (*those, *others):  # who holds none of its parameters only hears whose turn it was
            self._do(one, one.recorder.before_step, optimizer, args, kwargs)

    def _closing(self, optimizer: Optimizer) -> list[Watched]:
        those = self._those_of(optimizer)
        for act in self.closing:
            act(optimizer, those)
        return those

    def _asleep(self, optimizer: Optimizer) -> list[Watched] | None:
        """Whose parameters it holds, if they are known and all asleep: then nobody else need be told of its step."""
        groups, those = self._routes.get(id(optimizer), (0, []))
        if groups != len(optimizer.param_groups):
            return None
        return those if self.attention.resting or (those and all(map(_sleeps, those))) else None

    def after_step(self, optimizer: Any, args: Any, kwargs: Any) -> None:
        """An optimizer, or what stands for one, has stepped."""
        if (those := self._asleep(optimizer)) is not None:
            for one in those:
                one.after(optimizer, args, kwargs)
                if one.blind and one.recorder.due:
                    self._do(one, one.recorder.begin)
            return
        for one in self._closing(optimizer):  # a closure's backward passes came within the step
            self._do(one, one.recorder.after_step, optimizer, args, kwargs)
            if one.parts is not None:
                self._do(one, one.parts.stepped)
            if one.blind:
                self._do(one, one.recorder.begin)

    def _those_of(self, optimizer: Optimizer) -> list[Watched]:
        """Whose parameters it holds; found once, for that costs a pass over all of them."""
        groups = len(getattr(optimizer, "param_groups", ()))
        known = self._routes.get(id(optimizer))
        if known is None or known[0] != groups:
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            those = [
                one
                for one in self.live
                if not one.adopted
                and (optimizer in one.optimizers or any(id(p) in held for p in one.recorder.model.parameters()))
            ]
            known = self._routes[id(optimizer)] = (groups, those)
        return [one for one in known[1] if one.attachment is not None]

    def _do(self, one: Watched, act: Callable[..., Any], *args: Any) -> None:
        Hook(act, lambda error: self._give_up(one, error))(*args)

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Inside, no module has a hook of ours; afterwards each has it again, in its place."""
        gone = []
        models = [one.recorder.model for one in self.live] + [one for listed in self.others for one in listed()]
        for model in models:
            for module in model.modules():
                for hooks in (module._forward_pre_hooks, module._forward_hooks):
                    if any(isinstance(hook, Hook) for hook in hooks.values()):
                        gone.append((hooks, dict(hooks)))
                        for key in [key for key, hook in hooks.items() if isinstance(hook, Hook)]:
                            del hooks[key]
        try:
            yield
        finally:
            for hooks, were in gone:
                new = {key: hook for key, hook in hooks.items() if key not in were}
                hooks.clear()
                hooks.update({**were, **new})

    # --- the end -------------------------------------------------------------------------------------------------

    def let_go(self) -> None:
        """Close what the script itself has dropped, so that we do not keep its memory."""
        for one in self.live:
            if one.adopted > one.orphan:
                if one.attachment is not None and one.attachment._closed:
                    self.close(one, whole=True)
                continue
            held = (one.recorder.last_call, one.recorder.probing.language.padded)
            ours = one.references + sum(call is not None and call.model is one.recorder.model for call in held)
            if sys.getrefcount(one.recorder.model) - 1 <= ours:
                self.close(one, whole=True)

    def close(self, one: Watched, *, whole: bool) -> None:
        """Judge the last evidence, keep the verdicts, let the model go. `whole`: the run was not broken off."""
        attachment = one.attachment
        if attachment is None:
            return
        for act in self.ending:
            act(one)
        one.attachment = None
        try:
            attachment.close() if whole else attachment.broken_off()
        except Exception as error:  # noqa: BLE001 - a fault of ours must not end somebody's run; it is told, not lost
            self._fault(f"{one.name}: {type(error).__name__}: {error}")
        one.records, one.steps = attachment.records(), one.recorder.step
        one.optimizers.clear()
        self._routes.clear()
        one.recorder, one.after = None, lambda *_: None  # type: ignore[assignment]

    def close_all(self, *, whole: bool) -> None:
        """The script is over."""
        self.over = Feed.over = whole
        for one in self.live:
            self.close(one, whole=whole)
        self.attention.close()
        for handle in (*self._handles, *self.losses.handles):
            handle.remove()

    def forget(self) -> None:
        """This is another process now, and what was watched is its parent's."""
        for one in self.live:
            if (attachment := one.attachment) is not None:
                one.attachment = None
                attachment.mute()
        self.watched.clear()
        self._routes.clear()

    def records(self) -> list[tuple[str, list[dict[str, object]]]]:
        """Name -> verdicts of every model."""
        return [(one.name, one.attachment.records() if one.attachment else one.records) for one in self.watched]

    def facts(self) -> list[dict[str, object]]:
        """What was watched, for the file."""
        return [
            {
                "name": one.name,
                "steps": one.recorder.step if one.attachment else one.steps,
                "forwards heard": not one.blind,
            }
            for one in self.watched
        ]

    def _broke(self, check: str, error: Exception) -> None:
        self._fault(f"{check}: {type(error).__name__}: {error}")

    def _give_up(self, one: Watched, error: Exception) -> None:
        self._fault(f"{one.name}: {type(error).__name__}: {error}")
        if (attachment := one.attachment) is not None:
            one.attachment, one.records, one.steps = None, attachment.records(), one.recorder.step
            attachment.mute()


def _sleeps(one: Watched) -> bool:
    """Whether it hears nothing but the ends of steps. One that its owner closed hears nothing at all."""
    return one.attachment is not None and (one.recorder.asleep or one.attachment._closed)


def _rank() -> int | None:
    """Which of several ranks this process is by now."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return dist.get_rank() if several else None
