"""Gradient norms of layers (or towers) over time as a table: powers of ten, coloured where a terminal shows it."""

from __future__ import annotations

import math

from rich.table import Table
from rich.text import Text

from sightline.commands.terminal import console, say
from sightline.report.heat import Grid, gradients
from sightline.report.values import History

COLUMNS = 12
SHADES = ("#440154", "#414487", "#2a788e", "#22a884", "#7ad151", "#fde725")  # viridis, dark is small


def heat_table(history: History) -> None:
    """Print the table; nothing where no gradient norm was logged."""
    found = gradients(history)
    if found is None:
        return
    seen = found.thinned(COLUMNS)
    of = "layer" if history.layers else "tower"
    say("", f"  gradient norm by {of} and step, as a power of ten (0: none came; blank: frozen)")
    target = console()
    target.print(_table(seen, of))


def _table(seen: Grid, of: str) -> Table:
    logs = [_log(value) for row in seen.values for value in row]
    finite = [value for value in logs if value is not None and math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    grid = Table(box=None, pad_edge=False, padding=(0, 0), header_style="bold")
    grid.add_column(of)
    several = len({stage for stage, _ in seen.columns}) > 1
    for place, (stage, step) in enumerate(seen.columns):
        begins = several and (place == 0 or seen.columns[place - 1][0] != stage)
        grid.add_column(f" {stage}\n {step}" if begins else f"\n {step}" if several else f" {step}", justify="right")
    for name, row in reversed(list(zip(seen.rows, seen.values, strict=True))):  # as it stands: pictures at the bottom
        grid.add_row(f"  {name}", *(_cell(value, low, high) for value in row))
    return grid


def _log(value: float | None) -> float | None:
    return None if value is None or not value else math.log10(abs(value))


def _cell(value: float | None, low: float, high: float) -> Text:
    if value is None:
        return Text("")
    log = _log(value)
    if log is None:
        return Text(" 0 ", style="bold white on red")
    if not math.isfinite(log):
        return Text(" inf ", style="bold white on red")
    share = (log - low) / (high - low) if high > low else 1.0
    shade = SHADES[min(len(SHADES) - 1, int(share * len(SHADES)))]
    return Text(f" {log:.1f} ", style=f"{'black' if share > 0.5 else 'white'} on {shade}")
