"""What a schedule's rate will be at a place of its plan, asked of the schedule itself.

Only schedules whose rate follows from their place are asked: those of torch that say so, and rules of the script that
keep and tell nothing. No step is taken, and nothing is written to.
"""

from __future__ import annotations

import copy
import dis
import functools
import types
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from torch.optim import lr_scheduler

from sightline.guard.probes.restore import same_randomness

WRITING = ("STORE_GLOBAL", "STORE_DEREF", "STORE_ATTR", "STORE_SUBSCR", "DELETE_SUBSCR", "YIELD_VALUE")
SAYING = {"print", "open", "input", "write", "info", "debug", "warning", "warn"}  # names that a rule with words has
FAILS = (ArithmeticError, LookupError, TypeError, ValueError)  # of a rule beyond its last place
SPANS, POINTS = (128, 2048, 32768, 524288), 128  # ticks that are looked at, and at how many places of each
HALF = 0.5  # of the largest rate: a decay that ends above has hardly begun
NEAR = 0.05  # of the peak
STILL = 1e-4  # of the peak: what a line or a wave has left, shortly before its end
GRADUAL = 6  # places one after another: a decay in stairs has no end that its rates would tell


def rates_at(schedule: Any, place: int) -> list[float] | None:
    """The rate of each group at a place of the plan; None where that cannot be told, or depends on more."""
    if isinstance(schedule, lr_scheduler.SequentialLR):
        part = bisect_right(schedule._milestones, place)
        return rates_at(schedule._schedulers[part], place - (schedule._milestones[part - 1] if part else 0))
    try:
        if type(schedule) is lr_scheduler.LambdaLR:
            if not all(map(keeps_nothing, schedule.lr_lambdas)):
                return None
            return _by_rules(schedule, place)
        if type(schedule).__module__ != lr_scheduler.__name__:
            return None
        moved = copy.copy(schedule)
        moved.last_epoch = place
        if isinstance(schedule, lr_scheduler.OneCycleLR):
            moved.cycle_momentum = False  # it is written to the optimizer
            moved._get_lr_called_within_step = True
            return [float(rate) for rate in moved.get_lr()]
        formula = getattr(moved, "_get_closed_form_lr", None)
        return [float(rate) for rate in formula()] if formula is not None else None
    except FAILS:
        return None


def _by_rules(schedule: Any, place: int) -> list[float]:
    """What the rules of a `LambdaLR` say of each group at a place; or what they raise there."""
    pairs = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    return [float(base) * float(rule(place)) for base, rule in pairs]


def keeps_nothing(rule: Any) -> bool:
    """Whether a rule of the script may be asked: one that counts or tells its calls would do so of ours, too."""
    while isinstance(rule, functools.partial):
        rule = rule.func
    if not isinstance(rule, types.FunctionType | types.MethodType) or SAYING & set(rule.__code__.co_names):
        return False
    return not any(one.opname in WRITING for one in dis.get_instructions(rule))


def lowest(schedule: Any) -> int | None:
    """After how many ticks a rule of the script that falls step by step comes to its lowest rate, and falls no more.

    To a hundredth, where that is far away; None where it falls in stairs, falls for ever or cannot be asked.
    """
    if type(schedule) is not lr_scheduler.LambdaLR or not all(map(keeps_nothing, schedule.lr_lambdas)):
        return None

    def rate(place: int) -> float:
        return max(_by_rules(schedule, place))

    with same_randomness():
        try:
            for span in SPANS:
                apart = span // POINTS
                found = _lowest(rate, 0, apart, HALF)
                if found is not None and apart > 1:  # once more, from near by
                    near = max(1, apart // (POINTS // 4))
                    found = _lowest(rate, max(0, found - POINTS // 2 * near), near, 1.0)
                if found is not None:
                    return found
        except Exception:  # noqa: BLE001 - the script's own rule, beyond its last place
            return None
    return None


def _lowest(rate: Callable[[int], float], first: int, apart: int, share: float) -> int | None:
    """Where the rates, having fallen one by one to `share` of the largest so far, rest or rise, and fall no further."""
    rates = [rate(place) for place in range(first, first + POINTS * apart, apart)]
    top = next((n for n in range(POINTS - 1) if rates[n] > rates[n + 1]), POINTS - 1)
    end = next((n for n in range(top, POINTS - 1) if rates[n] <= rates[n + 1]), POINTS - 1)
    peak = max(rates[: end + 1])
    last = min(rates[end:]) >= rates[end] - NEAR * peak  # a wave's next trough may be hit nearer to its middle
    falls = end - top >= GRADUAL and rates[end] <= share * peak
    ends = rates[end - max(1, (end - top) // 16)] > STILL * peak  # else it has died away long before
    return first + end * apart if falls and last and ends and end < POINTS - GRADUAL else None
