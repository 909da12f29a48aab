"""The curves of attacks: right answers over the bound, with their intervals, beside noise of the same size."""

from __future__ import annotations

from typing import Any

from sightline.report.axes import linear_axis
from sightline.report.format import percent
from sightline.report.plots import Figure, Key, frame
from sightline.report.robustness import Curve, Robustness, Share

ALONG = {"linf": "bound of a pixel, in levels of 255", "l2": "bound of the difference's length (pixels 0 to 1)"}


def attack_figures(seen: Robustness) -> list[Figure]:
    """A figure of each attack: right answers over the bound, beside noise of the same size."""
    return [_figure(place, curve, seen.clean) for place, curve in enumerate(seen.curves, 1)]


def _figure(place: int, curve: Curve, clean: Share) -> Figure:
    times = 255.0 if curve.norm == "linf" else 1.0 if curve.norm else 100.0
    x = [0.0, *(point.epsilon * times for point in curve.points)]
    shares = [clean, *(point.files for point in curve.points)]
    noise = [clean.value, *(point.noise.value if point.noise else None for point in curve.points)]
    low = [100 * (share.interval[0] if share.interval else share.value) for share in shares]
    high = [100 * (share.interval[1] if share.interval else share.value) for share in shares]
    line: dict[str, Any] = {"type": "scatter", "x": x, "cliponaxis": False, "hovertemplate": "%{y:.1f} %"}
    band = {"type": "scatter", "x": [*x, *x[::-1]], "y": [*high, *low[::-1]], "fill": "toself", "fillcolor": "@band"}
    marks = {"mode": "lines+markers", "marker": {"color": "@accent", "size": 6}}
    data = [
        {**band, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "name": "95 % interval"},
        {**line, "y": [None if y is None else 100 * y for y in noise], "mode": "lines", "name": "noise of that size",
         "line": {"color": "@quiet", "width": 1.6, "dash": "2px,3px"}},
        {**line, **marks, "y": [100 * share.value for share in shares], "name": "attacked",
         "line": {"color": "@accent", "width": 2}},
    ]  # fmt: skip
    along = ALONG.get(curve.norm, "share of the picture that the patch covers, %")
    layout = frame(
        [], {**linear_axis([0, 100], lambda value: f"{value:g} %"), "range": [-2, 104]}, along=along, stages=False
    )
    layout["xaxis"] |= {"rangemode": "tozero", "tickvals": x, "ticktext": [f"{value:.3g}" for value in x]}
    told = "; ".join(f"{curve.bound(p.epsilon)}: {percent(p.files.value)}" for p in curve.points)
    alt = f"{curve.title}. Right answers: {percent(clean.value)} untouched; {told}."
    key = (Key("attacked", "@accent", "solid"), Key("noise of that size", "@quiet", "2px,3px"))
    return Figure(f"attack-{place}", curve.title, curve.about, alt, key, data, layout, linked=False)
