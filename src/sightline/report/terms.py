"""The losses that a stage adds up, one plot each: they have different floors, so one axis would flatten some.

Where their weights move, one more plot shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sightline.report.axes import linear_axis, log_axis, spans_decades
from sightline.report.format import tick
from sightline.report.plots import SMOOTH_FROM, Figure, Key, drawn, frame, thinned, told
from sightline.report.series import line, smooth
from sightline.report.values import TrainPoint

LOOKS = (("@ink", "solid"), ("@connector", "dash"), ("@language", "dot"), ("@vision", "dashdot"))
WORDS = {
    "itc": "Images and texts find each other: nats per pair.",
    "sigmoid": "Each pair judged by itself: nats per image.",
    "itm": "Do they belong together? Nats per question.",
    "itg": "The text, given the image: nats per token.",
    "mlm": "Masked words, given the image: nats per word.",
}


def term_figures(points: Sequence[TrainPoint]) -> list[Figure]:
    """One figure for each loss that was logged beside the total; one alone is the total, and is drawn already."""
    names = dict.fromkeys(name for point in points for name in point.terms)
    made = [_figure(name, points) for name in names] if len(names) > 1 else []
    return [figure for figure in (*made, _weights(points)) if figure is not None]


def _figure(name: str, points: Sequence[TrainPoint]) -> Figure | None:
    raw = line(points, _of(name))
    if not raw:
        return None
    values = raw.values()
    axis = log_axis(values, tick) if spans_decades(values) else linear_axis(values, tick)
    logarithmic = axis["type"] == "log"
    mean = smooth(raw, geometric=logarithmic) if raw.logged >= SMOOTH_FROM else None
    note = WORDS.get(name, "") + (" Log scale." if logarithmic else "") + thinned(raw)
    alt = f"Loss {name} over steps. " + told(name, raw)
    data = drawn(raw, name, "@ink", "solid", mean)
    return Figure(f"term-{name}", f"Loss: {name}", note.strip(), alt, (), data, frame(points, axis))


def _weights(points: Sequence[TrainPoint]) -> Figure | None:
    names = dict.fromkeys(name for point in points for name in point.weights)
    lines = {name: line(points, _weight_of(name)) for name in names}
    values = [value for each in lines.values() for value in each.values()]
    if not values:
        return None
    axis = log_axis(values, tick) if min(values) > 0 and spans_decades(values) else linear_axis(values, tick)
    looks = dict(zip(names, LOOKS * len(names), strict=False))
    data = [trace for name, each in lines.items() for trace in drawn(each, name, *looks[name], None)]
    key = tuple(Key(name, *looks[name]) for name in names)
    note = "What each loss weighs in the gradient. The losses themselves are told by the recipe's weights."
    note += " Log scale." if axis["type"] == "log" else ""
    alt = "Weights of the losses over steps. " + "".join(told(name, each) for name, each in lines.items())
    return Figure("weights", "Weights of the losses", note, alt, key, data, frame(points, axis))


def _weight_of(name: str) -> Callable[[TrainPoint], float | None]:
    return lambda point: point.weights.get(name)


def _of(name: str) -> Callable[[TrainPoint], float | None]:
    return lambda point: point.terms.get(name)
