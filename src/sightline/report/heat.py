"""Layers (or towers) over time as heat maps, from the first layer that a picture meets upwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.report.format import number, scientific
from sightline.report.plots import Figure, frame, plain
from sightline.report.series import towers_in
from sightline.report.values import History, LayerPoint

ROW = 15  # pixels of a layer
LEAST = 120  # pixels of a map
WIDEST = 400  # columns of a map; of more, each is the largest of its neighbours
COLOURS = ((0.0, "@heat0"), (0.25, "@heat1"), (0.5, "@heat2"), (0.75, "@heat3"), (1.0, "@heat4"))

Read = Callable[[LayerPoint], Mapping[str, float | None]]


KINDS: tuple[tuple[str, str, str, Read, bool], ...] = (  # id, title, note, what, whether on a log scale
    (
        "heat-gradient",
        "Gradient norm, layer by layer",
        "Before clipping, log scale. A frozen layer has no colour; a cross is a layer that no gradient reached.",
        lambda point: point.grad_norm,
        True,
    ),
    ("heat-update", "Update-to-weight ratio, layer by layer", "Log scale.", lambda point: point.update_ratio, True),
    (
        "heat-entropy",
        "Spread of attention, block by block",
        "Entropy over its largest possible: 1 looks everywhere alike, 0 at one place.",
        lambda point: point.attention_entropy,
        False,
    ),
    (
        "heat-dead",
        "Dead units, block by block",
        "Share of units that say nothing in a micro-batch.",
        lambda point: point.dead_units,
        False,
    ),
)


@dataclass(frozen=True, slots=True)
class Grid:
    """Values by row and column. `rows`: layers or towers; `columns`: (stage, step of the run). None: no value."""

    rows: tuple[str, ...]
    columns: tuple[tuple[str, int], ...]
    values: tuple[tuple[float | None, ...], ...]

    def thinned(self, most: int) -> Grid:
        """At most `most` columns: of each run of neighbours of one stage, the largest value of each row."""
        size = math.ceil(len(self.columns) / most)
        if size <= 1:
            return self
        runs: list[list[int]] = []
        for place, (stage, _) in enumerate(self.columns):
            if runs and len(runs[-1]) < size and self.columns[runs[-1][-1]][0] == stage:
                runs[-1].append(place)
            else:
                runs.append([place])
        values = tuple(tuple(_largest([row[place] for place in run]) for run in runs) for row in self.values)
        return Grid(self.rows, tuple(self.columns[run[-1]] for run in runs), values)


def _largest(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def gradients(history: History) -> Grid | None:
    """Gradient norms of the layers, where they were written down; else of the towers."""
    if history.layers:  # a layer that is told of and has no gradient is not frozen: 0
        return grid(history, lambda point: {name: norm or 0.0 for name, norm in point.grad_norm.items()})
    rows = towers_in(point.grad_norm for point in history.train)
    if not rows:
        return None
    values = tuple(tuple(point.grad_norm.get(row) for point in history.train) for row in rows)
    return Grid(tuple(rows), tuple((point.stage, point.step) for point in history.train), values)


def grid(history: History, read: Read) -> Grid | None:
    """One kind of what was written down of the layers. None where there is none of it."""
    rows: list[str] = []
    for point in history.layers:  # a later stage may have layers that an earlier one has not
        before = len(rows)
        for name in read(point):
            if name in rows:
                before = rows.index(name) + 1
            else:
                rows.insert(before, name)
                before += 1
    if not rows:
        return None
    towers = towers_in([dict.fromkeys((row.partition(".")[0] for row in rows), 0.0)])
    rows = sorted(rows, key=lambda name: towers.index(name.partition(".")[0]))  # a tower's layers stand together
    values = tuple(tuple(read(point).get(row) for point in history.layers) for row in rows)
    return Grid(tuple(rows), tuple((point.stage, point.step) for point in history.layers), values)


def heat_figures(history: History) -> list[Figure]:
    """The maps that the run's metrics can fill. Towers alone are drawn as lines already."""
    made = [_figure(history, *kind) for kind in KINDS]
    return [figure for figure in made if figure is not None]


def _figure(history: History, name: str, title: str, note: str, read: Read, logarithmic: bool) -> Figure | None:
    full = grid(history, read)
    if full is None or (name == "heat-dead" and not any(value for row in full.values for value in row)):
        return None
    seen = full.thinned(WIDEST)
    drawn = [[_drawn(value, logarithmic) for value in row] for row in seen.values]
    finite = [value for row in drawn for value in row if value is not None]
    if not finite:
        return None
    low, high = (min(finite), max(finite)) if logarithmic else (0.0, 1.0)
    steps = [step for _, step in seen.columns]
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": steps,
            "y": list(map(plain, seen.rows)),
            "z": drawn,
            "zmin": low,
            "zmax": max(high, low + 1e-9),
            "colorscale": [list(stop) for stop in COLOURS],
            "colorbar": _bar(low, high, logarithmic),
            "text": [[number(value) for value in row] for row in seen.values],
            "hovertemplate": "%{y}, step %{x}: %{text}<extra></extra>",
            "hoverongaps": False,
            "xgap": 1 if len(steps) < 60 else 0,
            "ygap": 1,
        }
    ]
    if crosses := _crosses(history.layers) if name == "heat-gradient" else []:
        data.append(_crossed(crosses))
    axis = {
        "type": "category", "fixedrange": True, "tickfont": {"color": "@quiet", "size": 10}, "ticks": "",
        "showgrid": False, "zeroline": False, "dtick": max(1, math.ceil(len(seen.rows) / 40)), "automargin": True,
        "categoryorder": "array", "categoryarray": list(map(plain, seen.rows)),
    }  # fmt: skip
    height = max(LEAST, ROW * min(len(seen.rows), 60)) + 70
    layout = frame(history.train, axis, height=height) | {"hovermode": "closest"}
    alt = f"{title}, {len(seen.rows)} layers at {len(full.columns)} steps, from {_told(low, logarithmic)} to "
    thin = f" Each column is the largest of {math.ceil(len(full.columns) / WIDEST)}." if seen is not full else ""
    return Figure(name, title, note.strip() + thin, alt + _told(high, logarithmic), (), data, layout, wide=True)


def _drawn(value: float | None, logarithmic: bool) -> float | None:
    if value is None or not math.isfinite(value) or (logarithmic and value <= 0):
        return None
    return math.log10(value) if logarithmic else value


def _crosses(points: Sequence[LayerPoint]) -> list[tuple[int, str]]:
    """Step and layer, where a layer that was to learn got no gradient."""
    return [(point.step, name) for point in points for name, norm in point.grad_norm.items() if not norm]


def _crossed(crosses: Sequence[tuple[int, str]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [step for step, _ in crosses],
        "y": [plain(row) for _, row in crosses],
        "marker": {"symbol": "x-thin", "size": 6, "line": {"width": 1.5, "color": "@alarm"}},
        "hovertemplate": "%{y}, step %{x}: no gradient<extra></extra>",
        "cliponaxis": False,
    }


def _bar(low: float, high: float, logarithmic: bool) -> dict[str, Any]:
    ticks: list[float] = list(range(math.ceil(low), math.floor(high) + 1)) if logarithmic else [0.0, 0.5, 1.0]
    ticks = ticks if not logarithmic or ticks else [low, high]
    return {
        "tickvals": ticks,
        "ticktext": [_told(tick, logarithmic) for tick in ticks],
        "tickfont": {"color": "@quiet", "size": 11},
        "thickness": 10,
        "outlinewidth": 0,
        "len": 1,
    }


def _told(value: float, logarithmic: bool) -> str:
    return scientific(10**value) if logarithmic else number(value)
