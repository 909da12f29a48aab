"""Numbers, sizes, times and dates as people read them. A value that is not there is a dash."""

from __future__ import annotations

import math
from datetime import datetime

NONE = "\N{EN DASH}"
SPACE = "\N{NO-BREAK SPACE}"  # between a number and its unit, so that no line breaks there


def whole(value: float | None) -> str:
    """A count in full: 9,673."""
    return NONE if value is None or not math.isfinite(value) else f"{value:,.0f}"


def short(value: float | None) -> str:
    """A count to three significant figures: 850, 38.6 k, 1.23 M, 7.06 B."""
    if value is None or not math.isfinite(value):
        return NONE
    for unit in ("", "k", "M", "B"):
        if abs(value) < 999.5 or unit == "B":
            break
        value /= 1000
    return f"{value:,.0f}" if not unit else f"{_three(value)}{SPACE}{unit}"


def _three(value: float) -> str:
    """Three significant figures without an exponent, for 1 <= |value| < 1000 (and above)."""
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{decimals}f}"


def percent(fraction: float | None) -> str:
    """A fraction as percent with one decimal; more where one decimal would round to 0 or to 100 falsely."""
    if fraction is None or not math.isfinite(fraction):
        return NONE
    for decimals in (1, 2, 3):
        text = f"{100 * fraction:.{decimals}f}"
        if fraction in (0.0, 1.0) or float(text) not in (0.0, 100.0):
            break
    return text + SPACE + "%"


def number(value: float | None) -> str:
    """Three significant figures: 1,250, 1.25, 0.0125; powers of ten below 1e-3 and from 1e5 on."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return scientific(value)
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def scientific(value: float | None) -> str:
    """The way learning rates are written: 1e-3, 2.5e-5."""
    if value is None or not math.isfinite(value):
        return NONE
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def tick(value: float) -> str:
    """A number beside an axis: as few digits as it needs."""
    if value and abs(value) < 1e-3:
        return scientific(value)
    for unit, one in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= max(one, 1e4):
            return f"{value / one:g}{SPACE}{unit}"
    return f"{value:,g}"


def seconds(value: float | None) -> str:
    """A duration given in seconds: 0.8 s, 43 s, 4 min 32 s, 2 h 05 min, 3 d 4 h."""
    if value is None or not math.isfinite(value):
        return NONE
    if value < 10:
        return f"{value:.1f}{SPACE}s"
    total = round(value)
    minutes, left = divmod(total, 60)
    hours, minutes_left = divmod(minutes, 60)
    days, hours_left = divmod(hours, 24)
    if total < 60:
        return f"{total}{SPACE}s"
    if hours == 0:
        return f"{minutes}{SPACE}min {left:02d}{SPACE}s"
    if days == 0:
        return f"{hours}{SPACE}h {minutes_left:02d}{SPACE}min"
    return f"{days}{SPACE}d {hours_left}{SPACE}h"


def size(value: float | None) -> str:
    """Bytes in binary units to three significant figures: 492 B, 4.13 MiB."""
    if value is None or not math.isfinite(value):
        return NONE
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 999.5 or unit == "TiB":
            break
        value /= 1024
    return f"{value:,.0f}{SPACE}B" if unit == "B" else f"{_three(value)}{SPACE}{unit}"


def date(iso: str) -> str:
    """An ISO time as 20 November 2025, 23:10 (and its zone where it says one); other text unchanged."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = f" {moment.tzname()}" if moment.tzinfo else ""
    return f"{moment.day} {moment:%B %Y, %H:%M}{zone}"


def plural(count: int, one: str, many: str = "") -> str:
    """The count with its noun: 1 check, 16 checks."""
    return f"{count:,}{SPACE}{one if count == 1 else many or one + 's'}"


def cut(text: str, limit: int = 600) -> str:
    """The text, or its start and how long it is where it is longer than `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}\N{HORIZONTAL ELLIPSIS} ({len(text):,} characters)"
