"""Axes of the plots: where they begin and end, and ticks written the way the page writes numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

DECADE = 10.0  # values that span more than this are drawn on a log axis


def spans_decades(values: Sequence[float]) -> bool:
    """Whether a log axis shows these values better: all above 0 and more than a decade apart."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > DECADE


def log_axis(values: Sequence[float], write: Callable[[float], str], within: Sequence[float] = ()) -> dict[str, Any]:
    """A log axis over all of `values` and `within`, a tick a decade (or at 1, 2 and 5 over less than two decades)."""
    seen = [value for value in (*values, *within) if value > 0] or [1.0]
    low, high = math.log10(min(seen)), math.log10(max(seen))
    margin = max(0.04 * (high - low), 0.05)
    low, high = low - margin, high + margin
    steps = (1, 2, 5) if high - low < 2 else (1,)
    every = max(1, round((high - low) / 8))
    decades = range(math.floor(low), math.ceil(high) + 1, every)
    ticks = [step * 10.0**decade for decade in decades for step in steps]
    ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
    return _axis(ticks, write, type="log", range=[low, high])


def linear_axis(values: Sequence[float], write: Callable[[float], str]) -> dict[str, Any]:
    """A linear axis from 0 (or below) to the highest value, with about five round ticks."""
    high, low = max([*values, 0.0]), min([*values, 0.0])
    span = (high - low) or 1.0
    step = _round_step(span / 4)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = [step * place for place in range(first, max(last, first + 1) + 1)]
    top = high + 0.06 * span
    return _axis([tick for tick in ticks if tick <= top], write, type="linear", range=[low - 0.02 * span, top])


def doubling_axis(values: Sequence[float], write: Callable[[float], str]) -> dict[str, Any]:
    """A log axis for values that double and halve: ticks at powers of two, about six at most."""
    low, high = math.floor(math.log2(min(values))), math.ceil(math.log2(max(values)))
    ticks = [2.0**power for power in range(low, high + 1, max(1, math.ceil((high - low) / 6)))]
    return _axis(ticks, write, type="log", range=[math.log10(2.0**low) - 0.1, math.log10(2.0**high) + 0.1])


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= rough * 0.999)


def _axis(ticks: list[float], write: Callable[[float], str], **more: Any) -> dict[str, Any]:
    return {
        "tickvals": ticks,
        "ticktext": [write(tick) for tick in ticks],
        "fixedrange": True,
        "zeroline": False,
        "gridcolor": "@grid",
        "ticks": "",
        "tickfont": {"color": "@quiet"},
        **more,
    }
