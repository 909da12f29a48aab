"""What the phases of a recorder share: the model and its facts, the counts so far, the step in the making."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer

from sightline.attach.beside import Beside
from sightline.attach.mailbox import Mailbox
from sightline.attach.meter import Meter
from sightline.attach.onlookers import Onlookers
from sightline.attach.onlookers.critic import Critic
from sightline.attach.open_step import OpenStep
from sightline.attach.pace import AGAIN, ALWAYS, Pace
from sightline.attach.probing import Probing
from sightline.attach.read import batch_seen, decoder, image_features, token_tensors
from sightline.attach.setup import Facts, image_token_of, learning_mark, read_setup, same_setup, setup_mark
from sightline.attach.sighted import Sighted
from sightline.attach.signals import Signals
from sightline.attach.templates import TEMPLATES
from sightline.attach.towers import Towers, renewed
from sightline.guard.evidence import Evidence, Phase, Progress, Setup
from sightline.guard.probes.call import Call

FLAGS = 64  # steps asleep between two looks at which parameters are frozen: for a thousand, half a microsecond a step

Build = Callable[[list[Tensor]], None]


class _Here(threading.local):
    silent = 0  # forward passes of the guard's own that run in this thread


_HERE = _Here()


class Ears(Protocol):
    """Hooks that are not needed while the guard sleeps (see `attach/hook.py`)."""

    def listen(self) -> None: ...
    def rest(self) -> None: ...


class Open(Ears, Protocol):
    """Those of a recorder: others may listen with them."""

    def also(self, one: Callable[[], Any]) -> None: ...

    def deaf(self) -> None: ...


class Audience(Protocol):
    """Hears all evaluations of a process. `enters` is not called while the guard sleeps, and need not be."""

    def enters(self, state: State) -> None: ...
    def gave(self, state: State, call: Call, output: Any) -> None: ...
    def over(self, state: State) -> None: ...


class State:
    """One model's run so far. `offer` takes evidence; `budget` is the share of step time that the guard may cost.

    Attributes:
        step, forwards, backwards: optimizer steps taken, training forwards, and backward passes of heard steps.
        declared: the host says that it evaluates. declarations: how often it began or ceased to.
        asleep: of this step only the forwards and the end are counted (see `attach/pace.py`). due: the next training
            forward wakes. wakes: the step from which it does; stalled: the forwards after which it does so too, should
            there be no more steps, `patience` after the last one. at_step: the forwards at the last step. lone: asleep,
            the one optimizer, where none of its steps need more than to be counted.
        open_step: the step in the making, from its first training forward on; None between steps, and asleep.
        stepped: steps that are over and not yet evidence, with what makes them so.
        evaluated: the evaluation under way was shown already. asked: the audience listens, without a forward pass.
        arriving: told first of a forward pass, by whoever finds out only then that a step was taken.
        parted: of a model whose parts are called one by one, all calls that the loss at hand may be made of. opened:
            the first that was given data, and not what another made.
        beside_it: smaller modules that the same optimizer moves, such as a head or another tower.
        ignored: the class that the loss in training leaves out, if it is one of the vocabulary's.
        renamed: told of other towers than those that were known at first.
        audience: told of the evaluations of all models.
    """

    audience: ClassVar[Audience | None] = None

    def __init__(
        self,
        model: nn.Module,
        towers: Towers,
        facts: Facts,
        probing: Probing,
        offer: Callable[[Evidence], Any],
        *,
        optimizer: Optimizer | None,
        budget: float,
    ) -> None:
        self.model, self.towers, self.facts, self.probing, self.offer = model, towers, facts, probing, offer
        self.optimizers = [optimizer] if optimizer is not None else []
        self.mailbox, self.meter, self.pace = Mailbox(), Meter(model, dict(towers.of)), Pace(budget)
        self.beside_it: list[weakref.ref[nn.Module]] = []
        self.sighted = Sighted(model, towers)
        self.renamed: Callable[[Towers], None] = lambda towers: None
        self.step, self.forwards, self.backwards = 0, 0, 0
        self.declared, self.asleep, self.due, self.evaluated, self._silent = False, False, False, False, 0
        self.asked = False
        self.ignored: int | None = None
        self.wakes, self.stalled, self.patience, self.at_step, self.declarations = 0, 0, 0, 0, 0
        self.lone: Optimizer | None = None
        self.setup: Setup | None = None
        self._mark: object = None
        self._flags: set[int] = set()  # which parameters were frozen so far, as one number
        self._known: set[int] = set()  # what could learn so far: of networks that take turns, the same again and again
        self._frozen: tuple[int, set[str]] = (0, set())  # at the last set-up: its step, and what was frozen
        self._rested: set[str] = set()  # what was frozen in any step so far
        self._woken: tuple[tuple[str, ...], int | None] = ((), None)  # what of these may learn, and since which step
        self.last_call: Call | None = None
        self.parted: list[tuple[Call, Any]] = []
        self.opened: Call | None = None
        self.open_step: OpenStep | None = None
        self.stepped: list[tuple[OpenStep, Build]] = []
        self.ears: Open | None = None
        self.arriving: Callable[[], None] | None = None
        self.signals = Signals()
        self.beside = Beside()
        self.onlookers = Onlookers(self, probing.wants)
        if probing.wants("ImagePairsSeen"):
            self.pace.also.append(probing.due)

    def show_setup(self, settle: Callable[[], None] | None = None) -> None:
        """Offer the set-up, when it is new. Reading it whole takes longer than asking whether anything changed.

        `settle` is called before: what belongs to the one before is to be evidence by then.
        """
        seen = self.sighted.towers() if self.forwards else None
        mark = (self.facts, setup_mark(self.model, self.optimizers))
        if mark == self._mark and seen is None:
            return
        if settle is not None and self._mark is not None:
            settle()
        self._mark = mark
        learning = hash(learning_mark(self.model, self.optimizers))
        if learning not in self._known:
            if self._known and self.step >= ALWAYS and len(self._known) <= AGAIN:
                self.onlookers.again()
            self._known.add(learning)
            self.woken()
            self.pace.again(self.step)
        others = [id(p) for _, p in self.meter.named] != [id(p) for p in self.model.parameters()]
        if others and any(True for _ in self.model.parameters()):
            self._rename(renewed(self.model, self.towers))
        if seen is not None:
            self._rename(seen)
            self.renamed(seen)
        setup = read_setup(self.model, self.towers, self.optimizers, self.facts, self.step)
        unfrozen, since = self._unfrozen()
        setup = replace(setup, unfrozen=unfrozen, unfrozen_at=since)
        if others or self.setup is None or not same_setup(setup, self.setup):
            self.setup = setup
            self.offer(setup)

    def _rename(self, towers: Towers) -> None:
        """From now on these are the towers."""
        self.mailbox.open(wait=True)  # what was measured is of the others
        self.towers = towers
        self.meter.renew(self.model, dict(towers.of))

    def _unfrozen(self) -> tuple[tuple[str, ...], int | None]:
        """Parameters that may learn now, and rested while others did; and the step since when these are the ones."""
        step, frozen = self._frozen
        if self.step > step:
            self._rested |= frozen
        self._frozen = self.step, {name for name, p in self.meter.named if not p.requires_grad}
        now = tuple(name for name, p in self.meter.named if p.requires_grad and name in self._rested)
        if now != self._woken[0]:
            self._woken = now, self.step if now else None
        return self._woken

    def woken(self) -> bool:
        """Whether other parameters are frozen than ever before."""
        flags = hash(tuple(p.requires_grad for _, p in self.meter.named))
        new = flags not in self._flags
        self._flags.add(flags)
        return new

    def show_batch(self, call: Call, phase: Phase) -> None:
        """Offer what the model was given, as soon as it is on the CPU."""
        tensors = token_tensors(call)
        made = None if phase == "preflight" else self.signals.gave.features  # a batch that is only shown made none
        step, features = self.step, image_features(call, made)
        graph = made is not None and self.signals.gave.graph
        image = image_token_of(self.model, self.facts)
        decode = self.facts.decode or decoder(self.facts.tokenizer)
        heads, mute = TEMPLATES.heads(self.facts.tokenizer), TEMPLATES.passed_by(self.facts.tokenizer)

        def arrived(values: list[Tensor]) -> None:
            seen = dict(zip(tensors, values, strict=True))
            self.offer(
                batch_seen(seen, call, phase, step, image, features, decode, graph=graph, heads=heads, mute=mute)
            )

        self.mailbox.post(list(tensors.values()), arrived)

    def wake(self) -> None:
        """The next training forward begins a step that may be heard."""
        self.due = True
        if self.ears is not None:
            self.ears.listen()

    def progress(self, *, closed: bool, idle: tuple[str, ...] = ()) -> Progress:
        """How far the run got."""
        return Progress(self.forwards, self.backwards, self.step, closed, self.facts.accumulation, idle)

    @contextmanager
    def silence(self) -> Iterator[None]:
        """Our own forward passes are not the host's: neither this recorder nor another one of the model hears them."""
        self._silent += 1
        _HERE.silent += 1
        forwards, signals = self.forwards, self.signals.gave
        try:
            yield
        finally:
            self.forwards = forwards  # asleep, every forward is counted
            self.signals.gave = signals
            self._silent -= 1
            _HERE.silent -= 1

    def habit(self, last: int) -> bool:
        """Whether a pass at step `last` and one now are one turn of the loop apart: each optimizer may step in it."""
        return self.step - last <= max(1, len(self.optimizers))

    @property
    def imitates(self) -> bool:
        """Whether the model learns through another, which is given what it makes and data in turn."""
        return any(isinstance(one, Critic) and one.imitates for one in self.onlookers.all)

    @property
    def muted(self) -> bool:
        """Whether a forward pass of the guard's own is running, for this model or in this thread."""
        return self._silent > 0 or _HERE.silent > 0
