"""An optimizer step in the making: what its forward and backward passes have shown so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sightline.attach.mailbox import Mailbox
from sightline.attach.pace import Kind
from sightline.guard.evidence import LossSeen
from sightline.guard.probes.call import Call


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss: a number where it was on the CPU, else its tensor, which waits on its device and is not copied.

    `version` tells whether the host changed the tensor since.
    """

    value: float | Tensor
    version: int = 0

    @classmethod
    def of(cls, loss: Tensor) -> Loss:
        """A 0-dim loss as it is now, or the mean of one for each of several devices."""
        value = loss.detach() if loss.dim() == 0 else loss.detach().mean()
        return cls(value.item()) if value.device.type == "cpu" else cls(value, value._version)


@dataclass(slots=True)
class OpenStep:
    """A step in the making. `carried`: (P,) least norms of the gradients that its backward passes met, and `met` those
    in each pass; `early`: places of parameters that may have had a gradient of a pass itself before it was heard;
    `reworked`: the host wrote into them between two steps, or a pass may have met others; `unheard`: a penalty on
    gradients was made, and no backward pass came through an output after that; `scaler`: gives the gradient scaler that
    made the loss of one of them larger.

    `begun`: of each forward, the outputs that a backward pass came through. `sources`: of each forward, whether another
    network made its inputs and learns through it. `turns`: `passes` backward and forwards so far, at
    each step of an optimizer that holds none of these parameters. `strayed`: the norms that the first pass after such a
    step met, which came from other inputs. `task`: the last pass, by its number. `kept`: a pass left parameters their
    gradients; `loose`: only such came so far that did not.

    `summed`: the micro-batches' losses are parts of the step's mean, and not means of their own. `told`: the losses as
    the host itself told them, which count in place of those that the model returned. `unread`: those of either kind
    that wait on their device until several are read at once. `spoiled`: the weights were not finite when its loss was
    not; `unsound`: the operation of its backward pass that first made NaN of finite gradients. `asked`: its gradients
    were asked for by name, and none stays with a parameter from one pass to the next. `means`: by the kind of loss, of
    each pass the places that it is a plain mean or sum of, and what one of them weighs.
    """

    kind: Kind
    losses: list[float] = field(default_factory=list)
    micro: list[LossSeen] = field(default_factory=list)
    means: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    carried: list[float] | None = None
    met: list[list[float]] = field(default_factory=list)
    tokens: int | None = None
    non_finite: str | None = None
    spoiled: bool = False
    unsound: str | None = None
    asked: bool = False
    summed: bool = False
    told: list[float] = field(default_factory=list)
    unread: list[tuple[Loss, list[float], float]] = field(default_factory=list)
    forwards: int = 0
    reworked: bool = False
    unheard: bool = False
    scaler: Callable[[], Any] | None = None
    begun: list[set[int]] = field(default_factory=list)
    sources: list[bool] = field(default_factory=list)
    turns: list[tuple[int, int]] = field(default_factory=list)
    passes: int = 0
    strayed: list[float] | None = None
    early: set[int] = field(default_factory=set)
    kept: bool = False
    loose: bool = False
    task: int = -1

    @property
    def measured(self) -> bool:
        """Whether the step is read in full."""
        return self.kind is Kind.MEASURED

    def count_items(self, call: Call, mailbox: Mailbox) -> None:
        """A host that tells the model how many tokens a whole step supervises divides each loss by that number."""
        items = call.kwargs.get("num_items_in_batch")
        if items is None and self.measured:
            items = call.value("num_items_in_batch")
        if isinstance(items, Tensor | int):
            self.summed = True
            mailbox.post([torch.as_tensor(items)], lambda v: setattr(self, "tokens", int(v[0].sum())))

    @property
    def handed_over(self) -> bool:
        """Whether the pass that begins is the first for these parameters' own step, and those before it were another's:
        they went on into the network that made the inputs, and its optimizer stepped."""
        if len(self.turns) != 1 or self.turns[0][0] != self.passes:
            return False
        before = self.turns[0][1]
        return 0 < before < len(self.sources) and all(self.sources[:before]) and not any(self.sources[before:])

    def anew(self, task: int) -> bool:
        """Whether torch's engine is in another backward pass than when this was asked last: through a model that was
        called several times, one pass comes several times, and adds up its gradients at the end."""
        before, self.task = self.task, task
        return task < 0 or task != before

    def meet(self, norms: list[float], touched: frozenset[int] | None = None, *, handed_over: bool = False) -> None:
        """A backward pass met these gradients. The least counts: a host may clear them in between.

        `touched`: of the pass that came first after a step, where it, or the host, has put others since.
        """
        if touched is not None:
            self.early |= {place for place, norm in enumerate(norms) if norm and place in touched}
            norms = [0.0 if place in touched else norm for place, norm in enumerate(norms)]
        if handed_over and self.met and not any(map(any, self.met)):
            self.strayed = norms
        self.met.append(norms)
        known = self.carried
        self.carried = norms if known is None else [min(a, b) for a, b in zip(known, norms, strict=True)]

    def forget(self) -> None:
        """What its passes have shown so far was not of the step."""
        self.carried, self.strayed = None, None
        for known in (self.micro, self.means, self.met, self.early):
            known.clear()

    @property
    def alike(self) -> tuple[tuple[int, float], ...]:
        """Its means, where all its passes are of one kind of loss."""
        found = list(self.means.values())
        return tuple(found[0]) if len(found) == 1 and len(found[0]) == self.passes else ()

    @property
    def taught(self) -> tuple[tuple[int, float, float], ...]:
        """Of each micro-batch: how much it supervised, the sum of all weights, and how much of it is cross-entropy."""
        return tuple((one.supervised, one.shares, one.softmax_rows) for one in self.micro)

    def met_of(self, graded: Sequence[bool]) -> tuple[float, ...]:
        """The norm in each pass, of what had no gradient of that pass itself by then. `graded`: had one at the step."""
        late = [place for place, one in enumerate(graded) if one and place not in self.early]
        return tuple(math.hypot(*(norms[place] for place in late) if late else norms) for norms in self.met)

    def hear(self, loss: Loss, *, told: bool = False, times: float = 1.0) -> None:
        """A loss counts, `times` what it is. What is not a number yet waits, for reading would wait for the device."""
        into = self.told if told else self.losses
        if isinstance(loss.value, float):
            into.append(loss.value * times)
        else:
            self.unread.append((loss, into, times))

    @property
    def loss(self) -> float | None:
        """The step's mean loss, as far as it was seen."""
        if self.told:
            return sum(self.told) / len(self.told)
        if not self.losses:
            return None
        return sum(self.losses) / (1 if self.summed else len(self.losses))


def read(steps: Sequence[OpenStep], mailbox: Mailbox) -> None:
    """Read the losses of these steps that are still on a device, with one copy for each device."""
    by_device: dict[torch.device, list[tuple[Tensor, list[float], float]]] = {}
    for step in steps:
        for loss, into, times in step.unread:
            if isinstance(tensor := loss.value, Tensor) and tensor._version == loss.version:
                by_device.setdefault(tensor.device, []).append((tensor, into, times))
        step.unread = []
    for waiting in by_device.values():
        mailbox.post([torch.stack([tensor.float() for tensor, _, _ in waiting])], partial(_give, waiting))


def _give(waiting: Sequence[tuple[Tensor, list[float], float]], came: list[Tensor]) -> None:
    for (_, into, times), value in zip(waiting, came[0].tolist(), strict=True):
        into.append(value * times)


def learns(tensor: Tensor | None) -> bool:
    """Whether a backward pass goes through it."""
    return tensor is not None and tensor.requires_grad
