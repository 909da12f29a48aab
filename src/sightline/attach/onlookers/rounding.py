"""What becomes of updates to 16-bit parameters: what the optimizer means to add, beside what the weight does.

What moves tensors by hand says nothing of what it means to add, nor do most optimizers but Adam and SGD. There it is
guessed from the weights of the same tensor that are small enough to show it, and what large ones should move by is
counted, not summed: each moves by whole spacings, as often as the size of the updates over the spacing, be its residue
kept or rounded at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor
from torch.optim import SGD, Adafactor, Optimizer

from sightline.attach.onlookers.onlooker import Onlooker, Recording
from sightline.guard.evidence import RoundingSeen

LOW = (torch.bfloat16, torch.float16)
PARAMETERS = 8  # the largest ones: they hold most of a model's elements
SAMPLE = 256  # elements of each
SMALL = 0.4  # of the spacing: round-to-nearest loses below a half (a quarter just above a power of two: one in 256)
TURNS = 4  # times that the parameters are followed anew as one optimizer's: two that take turns are followed as one
FIRST, EVERY = 24, 4  # looks that a run gets whatever the budget, and the steps between them: some 20 ms in all
ENOUGH = 32  # elements that are due: of fewer, it is counted how often weights moved, and how often they should have
FAR = 0.35  # of the spacing, where the update is guessed: most of such are below a half
WALKED = 1.0  # squares of the spacing: a walk of random signs has by then gone its own length
SHOWN, SHOWING = 2.0, 8  # spacings by which weights moved that show an update's size, and how many must do so
GAP = 8  # unmeasured steps for which the last update is taken to have gone on (Adam's mean is over ten)


@dataclass(slots=True, eq=False)
class Sampled:
    """Elements of one parameter: their places, values at the start, sum of updates, and whether all were small.

    The first `spread` are evenly spread; any after them are its least ones.
    """

    parameter: Tensor
    group: dict[str, Any]
    places: Tensor
    start: Tensor
    total: Tensor
    small: Tensor
    last: int
    spread: int


class Rounding(Onlooker):
    """Follows a sample of the 16-bit elements that an optimizer holds, over the measured steps."""

    shows: ClassVar = ("RoundingSeen",)

    def __init__(self, recorder: Recording) -> None:
        super().__init__(recorder)
        self._turns: WeakKeyDictionary[Optimizer, int] = WeakKeyDictionary()  # that each still has
        self._mute: WeakSet[Optimizer] = WeakSet()  # who do not say what they mean to add
        self._due = False
        self._begin(None)

    def _begin(self, owner: Optimizer | None) -> None:
        """What is counted from now on is `owner`'s; what is under way goes to the counts before."""
        self._owner = owner
        self._sampled: list[Sampled] = self._choose(owner) if owner is not None else []
        self._before: list[tuple[Tensor, Tensor | None]] = []
        self._counts = torch.zeros(2, dtype=torch.float64)
        self._guessed = torch.zeros(2, dtype=torch.float64)  # moves that should have been, and that were
        self._after: tuple[int, list[Tensor]] | None = None  # the values that the last step left, and when
        self._beside: list[Tensor] = []  # how many had others when the next one began: somebody writes them, too
        self._alone: bool | None = None  # whether nobody does, once that is known
        self._steps = 0

    def before_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Keep the values, and the gradients that this step uses."""
        if any(s.parameter.dtype != s.start.dtype for s in self._sampled):
            self._begin(None)
        if measured and optimizer is not self._owner and self._takes_over(optimizer):
            self._turns[optimizer] = self._turns.get(optimizer, TURNS) - 1
            self._begin(optimizer)
        self._due = measured or (self._steps < FIRST and self.recorder.step % EVERY == 0)
        if not self._due or optimizer is not self._owner:
            return
        self._before = [
            (_at(s.parameter, s.places), None if s.parameter.grad is None else _at(s.parameter.grad, s.places))
            for s in self._sampled
        ]
        if self._after is not None and self._after[0] == self.recorder.step:  # it counts when one is over
            pairs = zip(self._before, self._after[1], strict=True)
            self._beside = [(old != was).sum().float() for (old, _), was in pairs]
        self._after = None

    def after_step(self, optimizer: Optimizer, *, measured: bool) -> None:
        """Compare what the optimizer meant to add with what happened."""
        if not self._due or optimizer is not self._owner or not self._before:
            return
        step, counts, table, left = self.recorder.step, [], [], []
        if self._guesses(optimizer):
            self._guess()
            return
        for sampled, (old, grad) in zip(self._sampled, self._before, strict=True):
            update = meant(optimizer, sampled, grad)
            if update is None:
                self._mute.add(optimizer)
                self._begin(optimizer)
                return
            new, apart = _at(sampled.parameter, sampled.places), spacing(old)
            small, away = update.abs() < SMALL * apart, new != sampled.start
            left.append(new)
            slight, moves = small & (update != 0), new != old
            should = (update.abs() / apart * slight).sum()  # whether rounded at random, or what was lost is kept
            each = [(update != 0).sum(), (slight & ~moves).sum(), should, (slight & moves).sum()]
            counts.append(torch.stack([one.float() for one in each]))
            sampled.total += update * min(step - sampled.last, GAP)
            sampled.small &= small
            sampled.last = step
            due = sampled.small & (sampled.total.abs() >= apart)
            table.append(torch.stack([(due & ~away).sum(), (due & away).sum()]))
        self._before, self._steps, self._after = [], self._steps + 1, (step, left)
        self._post(step, counts, table)

    def _guess(self) -> None:
        """What moved, and by how much the rest should have, of a step whose updates nobody says."""
        rows = []
        for sampled, (old, grad) in zip(self._sampled, self._before, strict=True):
            if grad is not None:
                row, ratio = guessed(old, _at(sampled.parameter, sampled.places), grad, sampled.spread, sampled.total)
                rows.append(row)
                sampled.total += ratio.square() * min(self.recorder.step - sampled.last, GAP)
            sampled.last = self.recorder.step
        self._before, self._steps = [], self._steps + 1
        if not rows:
            return
        step, steps, counts, guesses = self.recorder.step, self._steps, self._counts, self._guessed
        dtype = str(self._sampled[0].parameter.dtype).removeprefix("torch.")

        def arrived(values: list[Tensor]) -> None:
            found = values[0].double()
            counts.add_(found[:2])
            guesses.add_(found[2:])
            updates, swallowed = (int(n) for n in counts.tolist())
            owed, paid = (int(n) for n in guesses.tolist())
            self.recorder.offer(RoundingSeen(step, dtype, steps, updates, swallowed, owed, paid, 0.0, guessed=True))

        self.recorder.mailbox.post([torch.stack([row.to(rows[0].device) for row in rows]).sum(dim=0)], arrived)

    def released(self) -> None:
        """Let go of the parameters."""
        self._begin(None)

    def close(self, *, broken: bool) -> None:
        """Let go of the parameters."""
        self.released()

    def _takes_over(self, optimizer: Optimizer) -> bool:
        """Whether it holds 16-bit parameters: the first that does, or one that was made anew for the same ones."""
        if not self._turns.get(optimizer, TURNS):
            return False
        mine = {id(p) for p, _ in _low(optimizer)}
        return bool(mine) and (self._owner is None or any(id(s.parameter) in mine for s in self._sampled))

    def _post(self, step: int, counts: list[Tensor], table: list[Tensor]) -> None:
        sampled, steps, all_, often = self._sampled, self._steps, self._counts, self._guessed
        beside, self._beside = self._beside, []
        dtype = str(sampled[0].parameter.dtype).removeprefix("torch.")
        rate = max(float(s.group["lr"] or 0.0) for s in sampled)

        def arrived(values: list[Tensor]) -> None:
            all_.add_(values[0][:2])
            often.add_(values[0][2:])
            updates, swallowed = (int(n) for n in all_.tolist())
            owed, paid = (int(n) for n in values[1].tolist())
            if len(values) > 2:
                self._alone = self._alone is not False and not float(values[2])
            guessed = owed + paid < ENOUGH and self._alone is True  # nothing went one way for long
            if guessed:
                owed, paid = (int(n) for n in often.tolist())
            self.recorder.offer(RoundingSeen(step, dtype, steps, updates, swallowed, owed, paid, rate, guessed))

        device = counts[0].device
        both = [
            torch.stack([part.to(device) for part in parts]).sum(dim=0)
            for parts in (counts, table, *[beside] * bool(beside))
        ]
        self.recorder.mailbox.post(both, arrived)

    def _guesses(self, optimizer: Optimizer) -> bool:
        return by_hand(optimizer) or optimizer in self._mute

    def _choose(self, optimizer: Optimizer) -> list[Sampled]:
        found = []
        for p, group in sorted(_low(optimizer), key=lambda h: -h[0].numel())[:PARAMETERS]:
            places = torch.arange(0, p.numel(), max(1, p.numel() // SAMPLE), device=p.device)
            spread = len(places)
            if self._guesses(optimizer):  # the least ones show how large updates are
                least = p.detach().reshape(-1).abs().topk(min(SAMPLE, p.numel()), largest=False).indices
                places = torch.cat([places, least])
            zero = torch.zeros(len(places), device=p.device)
            start, last = _at(p, places), self.recorder.step
            found.append(Sampled(p, group, places, start, zero, zero == 0, last, spread))
        return found


def _low(optimizer: Optimizer) -> list[tuple[Tensor, dict[str, Any]]]:
    """The 16-bit parameters that an optimizer moves, each with its group."""
    held = ((p, g) for g in optimizer.param_groups for p in g["params"])
    return [(p, g) for p, g in held if p.dtype in LOW and p.requires_grad and not hasattr(p, "to_local")]


def meant(optimizer: Optimizer, sampled: Sampled, grad: Tensor | None) -> Tensor | None:
    """(n,) float32: the update that the optimizer's state and group call for; None where they do not say.

    Known for whatever keeps Adam's two moments, and for torch's SGD and Adafactor, whose updates are shares of weights.
    Weight decay is left out: it is rounded by itself.
    """
    state, group = optimizer.state.get(sampled.parameter, {}), sampled.group
    rate = group["lr"]
    if {"exp_avg", "exp_avg_sq", "step"} <= set(state) and "betas" in group:
        mean, square = (_at(state[key], sampled.places).float() for key in ("exp_avg", "exp_avg_sq"))
        one, two = group["betas"]
        root = (square / (1 - two ** state["step"])).sqrt() + group.get("eps", 1e-8)
        return -rate * (mean / (1 - one ** state["step"])) / root
    if isinstance(optimizer, SGD):
        if grad is None:
            return torch.zeros_like(sampled.total)
        kept = state.get("momentum_buffer")
        return -rate * (grad.float() if kept is None else _at(kept, sampled.places).float())
    if isinstance(optimizer, Adafactor):
        return torch.zeros_like(sampled.total) if grad is None or not state else _factored(sampled, state, grad.float())
    return None


def _factored(sampled: Sampled, state: dict[str, Any], grad: Tensor) -> Tensor:
    """Adafactor's, but for its clipping, which makes it less."""
    parameter, places, group = sampled.parameter, sampled.places, sampled.group
    tiny, least = group["eps"]
    tiny = torch.finfo(parameter.dtype).eps if tiny is None else tiny
    size = parameter.detach().float().square().mean().sqrt().clamp(min=least)
    square = state.get("variance")
    if square is None:
        rows, columns = parameter.shape[-2:]
        row, column = state["row_var"].float(), state["col_var"].float()
        of, whole = places // columns, places // (rows * columns)
        mean = _at(row.mean(dim=-2), whole).clamp(min=tiny)
        found = _at(row, of) * _at(column, whole * columns + places % columns) / mean
    else:
        found = _at(square, places).float()
    return -size * min(group["lr"], float(state["step"]) ** -0.5) * grad * found.clamp(min=tiny * tiny).rsqrt()


def by_hand(optimizer: Optimizer) -> bool:
    """Whether it stands for a script that moves its tensors itself, at a rate of its own."""
    return all(group.get("lr", 0.0) is None for group in optimizer.param_groups)


def guessed(old: Tensor, new: Tensor, grad: Tensor, spread: int, walked: Tensor) -> tuple[Tensor, Tensor]:
    """(4,) float32: updates, those that moved nothing; moves of large weights that should have been, and that were.

    Large: an update, whether it is taken to be alike for all (Adam) or to go with the gradient, is below `FAR` of its
    spacing. The lesser of both is what is owed. Nothing where too few small weights moved to tell.
    Of the first `spread` alone: the others are there to show the size. Weights that are rounded anew begin half a
    spacing from their first move: so only those count that updates of either sign have `walked` far enough since, in
    squares of spacings. And (n,) float32: updates over spacings.
    """
    shift, pull, apart = (new.float() - old.float()).abs(), grad.float().abs(), spacing(old)
    active, showing = pull > 0, (shift >= SHOWN * apart) & (pull > 0)
    unknown = torch.full_like(shift, float("nan"))
    alike = torch.where(showing, shift, unknown).nanmedian()
    along = torch.where(showing, shift / pull.clamp(min=1e-30), unknown).nanmedian() * pull
    active = active & (torch.arange(len(old), device=old.device) < spread)
    ratio = torch.minimum(alike, along).nan_to_num(0.0) / apart
    large = active & (torch.maximum(alike, along) < FAR * apart) & (walked >= WALKED)
    owed = torch.where(large, ratio, 0.0).sum()
    row = torch.stack([active.sum(), (active & (shift == 0)).sum(), owed, (large & (shift != 0)).sum()]).float()
    told = torch.tensor([True, True, False, False], device=old.device) | (showing.sum() >= SHOWING)
    return torch.where(told, row, 0.0), torch.where(showing.sum() >= SHOWING, ratio, 0.0)


def _at(tensor: Tensor, places: Tensor) -> Tensor:
    return tensor.detach().reshape(-1).index_select(0, places)


def spacing(values: Tensor) -> Tensor:
    """Distance from each value to the next of its format, float32."""
    format = torch.finfo(values.dtype)
    exponent = torch.frexp(values.float()).exponent
    return torch.ldexp(torch.full_like(exponent, format.eps, dtype=torch.float32), exponent - 1).clamp(
        min=format.smallest_normal * format.eps
    )
