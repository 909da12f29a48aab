"""Heat maps of layers: which layer in which row, what is left out, and that the page shows them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.report.heat import WIDEST, gradients, heat_figures
from sightline.report.page import write_report
from sightline.report.read import read_run
from sightline.report.values import History, LayerPoint
from tests.report.fake_run import metrics

NAMES = ("vision.in", "vision.0", "vision.1", "connector.0", "language.0", "language.out")


def layers(step: int, stage: str = "see", names: tuple[str, ...] = NAMES, **changes: Any) -> dict[str, Any]:
    norms = {name: 10.0 ** -(place % 3) for place, name in enumerate(names)} | changes
    kinds = {"grad_norm": norms, "weight_norm": dict.fromkeys(names, 3.0), "update_ratio": dict.fromkeys(names, 1e-3)}
    blocks = {"attention_entropy": {"vision.0": 0.5, "vision.1": 0.7}, "dead_units": {"vision.0": 0.0}}
    return {"event": "layers", "stage": stage, "step": step, "global_step": step} | kinds | blocks


def history(lines: list[dict[str, Any]]) -> History:
    kinds = ("grad_norm", "weight_norm", "update_ratio", "attention_entropy", "dead_units")
    points = [LayerPoint(line["stage"], line["step"], *(line[kind] for kind in kinds)) for line in lines]
    return History(layers=tuple(points))


def test_rows_stand_in_the_order_of_the_network_whatever_stage_told_of_them() -> None:
    first = layers(1, names=("connector.0",))
    seen = gradients(history([first, layers(50, "later")]))
    assert seen is not None and seen.rows == NAMES
    assert seen.columns == (("see", 1), ("later", 50))
    assert seen.values[0] == (None, 1.0) and seen.values[3][0] == 1.0  # frozen, and not


def test_a_layer_that_no_gradient_reached_is_not_a_frozen_one() -> None:
    lines = [layers(1, **{"vision.0": None}), layers(50, **{"vision.0": 0.0})]
    seen = gradients(history(lines))
    assert seen is not None and seen.values[1] == (0.0, 0.0)
    drawn = next(figure for figure in heat_figures(history(lines)) if figure.id == "heat-gradient")
    heat, crosses = drawn.data
    assert heat["z"][1] == [None, None] and crosses["x"] == [1, 50] and crosses["y"] == ["vision.0", "vision.0"]
    assert heat["z"][0] == [0.0, 0.0] and heat["z"][2] == [-2.0, -2.0]


def test_of_many_columns_each_is_the_largest_of_its_neighbours() -> None:
    lines = [layers(step, **{"vision.0": 77.0 if step == 901 else 0.1}) for step in range(1, 1001)]
    seen = gradients(history(lines))
    assert seen is not None
    few = seen.thinned(WIDEST)
    assert len(few.columns) <= WIDEST and max(value or 0 for value in few.values[1]) == 77.0
    figure = heat_figures(history(lines))[0]
    assert "Each column is the largest of 3." in figure.note
    assert max(value for value in figure.data[0]["z"][1]) == pytest.approx(math.log10(77.0))


def test_what_is_not_there_is_not_drawn() -> None:
    assert heat_figures(History()) == [] and gradients(History()) is None
    assert [figure.id for figure in heat_figures(history([layers(1)]))] == [
        "heat-gradient",
        "heat-update",
        "heat-entropy",
    ]


def test_the_page_shows_them(build_run: Callable[..., Path]) -> None:
    lines = [*metrics(until=90), *(layers(step) for step in (1, 50, 90))]
    page = write_report(build_run(metrics=lines)).read_text()
    assert "Layer by layer" in page and 'id="plot-heat-gradient"' in page
    assert json.dumps("vision.1") in page
    without = write_report(build_run("other", metrics=metrics(until=90))).read_text()
    assert "Layer by layer" not in without


def test_lines_are_read_and_what_a_resume_repeats_is_counted_once(build_run: Callable[..., Path]) -> None:
    window = {
        "event": "steps",
        "stage": "see",
        "step": 4,
        "global_step": 4,
        "loss": [3.0, 2.0],
        "grad_norm": [1.0, None],
    }
    again = window | {"step": 6, "global_step": 6}
    lines = [window, layers(4), again, layers(6), {"event": "resume", "global_step": 4}, again, layers(6)]
    seen = read_run(build_run(metrics=lines)).history
    assert [(p.step, p.own, p.loss, p.grad_norm) for p in seen.steps] == [
        (3, 3, 3.0, 1.0), (4, 4, 2.0, None), (5, 5, 3.0, 1.0), (6, 6, 2.0, None),
    ]  # fmt: skip
    assert [point.step for point in seen.layers] == [4, 6]
