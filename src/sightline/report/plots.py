"""The plots of training as plain plotly figures (data and layout), drawn by the page itself.

Colours and fonts are names that start with "@": the page replaces them by its style's values, so that one style
sheet rules text and plots, in light, in dark and on paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.report.axes import doubling_axis, linear_axis, log_axis, spans_decades
from sightline.report.format import number, plural, scientific, tick, whole
from sightline.report.series import LIMIT, Line, line, smooth, thin, towers_in
from sightline.report.values import TOWERS, History, TrainPoint

# Rule of thumb: the update of a step is about 1e-3 of the weights. CS231n, "Neural Networks Part 3: Learning and
# Evaluation", section "Ratio of weights:updates". A decade either side is drawn as healthy.
HEALTHY, HEALTHY_LOW, HEALTHY_HIGH = 1e-3, 1e-4, 1e-2
DASHES = {"vision": "solid", "connector": "6px,3px", "language": "2px,3px"}
FEW = 40  # so few points are marked one by one
SMOOTH_FROM = 60  # fewer logged steps than this are shown as they are
LR_DECADES = 3  # a decayed learning rate is not followed further down than this


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a figure's key: a name, and how its line is drawn."""

    name: str
    colour: str
    dash: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot. `alt` says in words what it shows; `linked` plots share the step axis and zoom together."""

    id: str
    title: str
    note: str
    alt: str
    key: tuple[Key, ...]
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    linked: bool = True
    wide: bool = False


def figures(history: History) -> list[Figure]:
    """Every plot that the run's metrics can fill, in the order of the page."""
    points = history.train
    made = [
        _loss(history),
        _per_tower("lr", "Learning rate", "", points, lambda point: point.lr, _lr_axis, noisy=False),
        _per_tower("grad-norm", "Gradient norm", "Before clipping.", points, lambda point: point.grad_norm, _norm_axis),
        _update_ratio(points),
        _loss_scale(points),
        _rate("images", "Pictures per second", points, lambda point: point.images_per_s),
        _rate("tokens", "Tokens per second", points, lambda point: point.tokens_per_s),
    ]
    return [figure for figure in made if figure is not None]


# --- one function a figure ---------------------------------------------------------------------------------------


def _loss(history: History) -> Figure | None:
    raw = line(history.train, lambda point: point.loss)
    seen = [point for point in history.validation if point.loss is not None and math.isfinite(point.loss)]
    validation = Line([point.step for point in seen], [point.loss for point in seen], len(seen))
    if not raw and not validation:
        return None
    lost = len(history.train) - raw.logged
    smoothed = raw.logged >= SMOOTH_FROM
    values = raw.values() + validation.values()
    axis = log_axis(values, tick) if spans_decades(values) else linear_axis(values, tick)
    mean = smooth(raw, _weights(history.train), geometric=axis["type"] == "log") if smoothed else None
    data = drawn(raw, "training", "@ink", "solid", mean)
    data.append(_trace(validation, "validation", "@accent", width=1.6, marks=True))
    several = any(len(point.terms) > 1 for point in history.train)
    unit = "Nats; where several losses add up, their weighted sum" if several else "Nats per supervised token or pair"
    note = unit + (", log scale." if axis["type"] == "log" else ".")
    note += " Bold: a mean around each step, weighted by tokens. Pale: the logged steps themselves." if smoothed else ""
    note += f" {plural(lost, 'logged step')} had no finite loss and cannot be drawn." if lost else ""
    key = [Key("training", "@ink", "solid")] + [Key("validation", "@accent", "dot")] * bool(validation)
    alt = "Loss over steps. " + told("Training", raw) + told("Validation", validation)
    layout = frame(history.train, axis, height=320)
    return Figure(
        "loss",
        "Loss",
        note + thinned(raw),
        alt,
        tuple(key),
        [trace for trace in data if trace["x"]],
        layout,
        wide=True,
    )


def _weights(points: Sequence[TrainPoint]) -> list[float]:
    """The tokens behind each entry of `line(points, ...)`, its breaks included."""
    return [point.tokens or 1.0 if point is not None else 0.0 for point in _with_breaks(points)]


def _with_breaks(points: Sequence[TrainPoint]) -> list[TrainPoint | None]:
    made: list[TrainPoint | None] = []
    for before, point in zip([None, *points], points, strict=False):
        made += [None, point] if before is not None and before.stage != point.stage else [point]
    return made


def _per_tower(
    name: str,
    title: str,
    note: str,
    points: Sequence[TrainPoint],
    read: Callable[[TrainPoint], Mapping[str, float]],
    scale: Callable[[Sequence[float]], dict[str, Any]],
    noisy: bool = True,
) -> Figure | None:
    every = {tower: line(points, _of_tower(read, tower)) for tower in towers_in(map(read, points))}
    lines = {tower: curve for tower, curve in every.items() if curve}
    if not lines:
        return None
    axis = scale([value for curve in lines.values() for value in curve.values()])
    note += " Log scale." if axis["type"] == "log" else ""
    note += thinned(max(lines.values(), key=lambda curve: curve.logged))
    data = []
    for tower, curve in lines.items():
        mean = smooth(curve, geometric=axis["type"] == "log") if noisy and curve.logged >= SMOOTH_FROM else None
        data += drawn(curve, tower, colour(tower), dash(tower), mean)
    key = tuple(Key(tower, colour(tower), dash(tower)) for tower in lines)
    alt = f"{title} over steps. " + "".join(told(tower, curve) for tower, curve in lines.items())
    return Figure(name, title, note.strip(), alt, key, data, frame(points, axis))


def _of_tower(read: Callable[[TrainPoint], Mapping[str, float]], tower: str) -> Callable[[TrainPoint], float | None]:
    return lambda point: read(point).get(tower)


def _update_ratio(points: Sequence[TrainPoint]) -> Figure | None:
    note = "Size of a step's update over size of the weights. Healthy is about 1e-3; the band is 1e-4 to 1e-2."
    made = _per_tower("update-ratio", "Update-to-weight ratio", note, points, lambda p: p.update_ratio, _ratio_axis)
    if made is not None:
        across = {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, "layer": "below", "line": {"width": 0}}
        made.layout["shapes"].append({**across, "y0": HEALTHY_LOW, "y1": HEALTHY_HIGH, "fillcolor": "@band"})
        middle = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "layer": "below", "y0": HEALTHY, "y1": HEALTHY}
        made.layout["shapes"].append({**middle, "line": {"color": "@healthy", "width": 1}})
    return made


def _loss_scale(points: Sequence[TrainPoint]) -> Figure | None:
    scale = line(points, lambda point: point.loss_scale)
    if not scale or min(scale.values()) <= 0:
        return None
    axis = doubling_axis(scale.values(), whole)
    note = "fp16: the loss is multiplied by this before the backward pass. It halves when a gradient overflows."
    data = [_trace(scale, "loss scale", "@ink", shape="hv")]
    if lost := [point for point in points if point.skipped and point.loss_scale]:
        note += f" {sum(point.skipped or 0 for point in lost):,} steps were skipped for it: the dots."
        dots = Line([point.step for point in lost], [point.loss_scale for point in lost], len(lost))
        data.append(_trace(dots, "skipped", "@ink") | {"mode": "markers"})
    alt = "Loss scale over steps. " + told("The scale", scale)
    return Figure("loss-scale", "Loss scale", note + thinned(scale), alt, (), data, frame(points, axis))


def _rate(
    name: str, title: str, points: Sequence[TrainPoint], read: Callable[[TrainPoint], float | None]
) -> Figure | None:
    timed = all(point.clock is not None for point in points)
    rate = line(points, read, (lambda point: (point.clock or 0.0) / 60) if timed else lambda point: point.step)
    if not rate:
        return None
    axis = linear_axis(rate.values(), tick)
    layout = frame(points, axis, along="minutes since the start" if timed else "step", stages=not timed)
    alt = f"{title} over {'time' if timed else 'steps'}. " + told("It", rate)
    data = [_trace(rate, title.lower(), "@ink")]
    return Figure(name, title, thinned(rate).strip(), alt, (), data, layout, linked=False)


# --- scales ------------------------------------------------------------------------------------------------------


def _lr_axis(values: Sequence[float]) -> dict[str, Any]:
    """Towers that learn a decade or more apart need a log axis; one cosine alone is truest on a linear one."""
    peak = max(values)
    if peak > 0 and min(values) >= 0 and _peaks_apart(values):
        return log_axis([value for value in values if value > peak * 10.0**-LR_DECADES], scientific)
    return linear_axis(values, scientific)


def _peaks_apart(values: Sequence[float]) -> bool:
    ordered = sorted(value for value in values if value > 0)
    return bool(ordered) and max(ordered) / ordered[len(ordered) // 2] > 5


def _norm_axis(values: Sequence[float]) -> dict[str, Any]:
    return log_axis(values, tick) if spans_decades(values) else linear_axis(values, tick)


def _ratio_axis(values: Sequence[float]) -> dict[str, Any]:
    return log_axis(values, scientific, within=(HEALTHY_LOW, HEALTHY_HIGH))


# --- the common form ---------------------------------------------------------------------------------------------


def colour(tower: str) -> str:
    """The colour that a tower has on the whole page."""
    return f"@{tower}" if tower in TOWERS else "@other"


def dash(tower: str) -> str:
    """How a tower's line is broken: colour is never the only mark."""
    return DASHES.get(tower, "solid")


def drawn(full: Line, name: str, hue: str, pattern: str, mean: Line | None) -> list[dict[str, Any]]:
    """A line as it is; or, where there is a mean, the mean bold over the line itself, pale."""
    if mean is None:
        return [_trace(full, name, hue, dash=pattern)] if full else []
    return [_trace(full, f"{name}, each", hue, width=1, opacity=0.25), _trace(mean, name, hue, width=2, dash=pattern)]


def _trace(
    full: Line,
    name: str,
    hue: str,
    *,
    width: float = 1.8,
    dash: str = "solid",
    opacity: float = 1.0,
    marks: bool = False,
    shape: str = "linear",
) -> dict[str, Any]:
    few = thin(full)
    return {
        "type": "scatter",
        "mode": "lines+markers" if marks or full.logged <= FEW else "lines",
        "x": few.x,
        "y": few.y,
        "name": plain(name),
        "opacity": opacity,
        "line": {"color": hue, "width": width, "dash": dash, "shape": shape},
        "marker": {"color": hue, "size": 5 if full.logged > 5 else 8},
        "cliponaxis": False,
        "hovertemplate": "%{y:.3~g}",
        "connectgaps": False,
    }


def frame(
    points: Sequence[TrainPoint], axis: dict[str, Any], *, height: int = 240, along: str = "step", stages: bool = True
) -> dict[str, Any]:
    """A figure's layout."""
    x = {"title": {"text": along, "standoff": 6}, "zeroline": False, "showgrid": False, "ticks": "outside", "nticks": 7}
    colours = {
        "ticklen": 4,
        "tickcolor": "@rule",
        "linecolor": "@rule",
        "showline": True,
        "tickfont": {"color": "@quiet"},
    }
    shapes, labels = _stage_marks(points) if stages else ([], [])
    return {
        "height": height,
        "margin": {"l": 52, "r": 10, "t": 24 if labels else 10, "b": 42},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "@font", "size": 12, "color": "@quiet"},
        "showlegend": False,
        "hovermode": "x",
        "hoverlabel": {"bgcolor": "@paper", "bordercolor": "@rule", "font": {"color": "@ink", "size": 12}},
        "xaxis": {**x, **colours, **({"range": [0, points[-1].step]} if along == "step" and points else {})},
        "yaxis": axis,
        "shapes": shapes,
        "annotations": labels,
    }


def stage_starts(points: Sequence[TrainPoint]) -> list[tuple[str, int, int]]:
    """Each stage with the step it begins after and its last logged step."""
    starts: list[tuple[str, int, int]] = []
    for point in points:
        if not starts or starts[-1][0] != point.stage:
            starts.append((point.stage, starts[-1][2] if starts else 0, point.step))
        starts[-1] = (*starts[-1][:2], point.step)
    return starts


def _stage_marks(points: Sequence[TrainPoint]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A line where each stage begins, and its number above: the page adds the name where the stage is wide enough."""
    starts = stage_starts(points)
    shapes, labels = [], []
    for place, (_, start, _) in enumerate(starts, start=1):
        edge = {"x0": start, "x1": start, "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
        if place > 1:
            shapes.append({"type": "line", **edge, "line": {"color": "@rule", "width": 1}})
        at = {"x": start, "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "bottom", "showarrow": False}
        labels.append(
            {**at, "text": str(place), "font": {"color": "@quiet", "size": 12}, "xshift": -2 if place == 1 else 2}
        )
    return (shapes, labels) if len(starts) > 1 else ([], [])


def plain(name: str) -> str:
    """Plotly reads a few HTML tags in its texts; names are shown as they are."""
    return name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def told(name: str, curve: Line) -> str:
    """First, last, lowest and highest value in words."""
    values = curve.values()
    if not values:
        return ""
    text = f"{name}: {number(values[0])} at first, {number(values[-1])} at last"
    return text + f", from {number(min(values))} to {number(max(values))}. "


def thinned(full: Line) -> str:
    """What was left out of a drawn line, if anything."""
    if len(full.x) <= LIMIT:
        return ""
    return f" Drawn from {full.logged:,} points: the lowest and highest of every {math.ceil(2 * len(full.x) / LIMIT)}."
