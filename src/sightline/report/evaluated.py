"""`evaluation.json` of answers and of classes -> `Evaluation`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sightline.report import values as v
from sightline.report.files import fraction, integer, mapping, read_json, text
from sightline.report.looking import Leaks, leaks, looking, says
from sightline.report.retrieval import interval


def evaluation(folder: Path, notes: list[str]) -> v.Evaluation | None:
    """The run's own evaluation; None where it has no accuracy."""
    seen = read_json(folder / "evaluation.json", dict, notes)
    accuracy = fraction(seen.get("accuracy"))
    if accuracy is None:
        if seen and seen.get("metric") not in ("none", "retrieval", "perplexity"):
            notes.append("evaluation.json holds no accuracy between 0 and 1 and is left out.")
        return None
    return v.Evaluation(
        data=text(seen.get("data")),
        metric=text(seen.get("metric")),
        questions=integer(seen.get("questions")),
        accuracy=accuracy,
        interval=interval(seen.get("interval")),
        groups=_groups(mapping(seen.get("by_group"))),
        baselines=_baselines(mapping(seen.get("baselines"))),
        partial=seen.get("partial") is True,
        rule=text(seen.get("rule")),
        tables=_tables(mapping(seen.get("by_field"))),
        looking=looking(seen),
    )


def leaked(folder: Path) -> Leaks | None:
    """The leak check of the run's own evaluation, whatever its metric."""
    return leaks(read_json(folder / "evaluation.json", dict, []))  # what is wrong with the file is noted elsewhere


def _tables(by_field: Mapping[str, Any]) -> tuple[tuple[str, tuple[v.Group, ...]], ...]:
    tables = ((field, _groups(mapping(table))) for field, table in by_field.items())
    return tuple((field, groups) for field, groups in tables if groups)


def _groups(by_group: Mapping[str, Any]) -> tuple[v.Group, ...]:
    groups = []
    for name, value in by_group.items():
        group = mapping(value)
        if (accuracy := fraction(group.get("accuracy"))) is not None:
            shuffled, text_only = fraction(group.get("shuffled")), fraction(group.get("text_only"))
            ends, asked = interval(group.get("interval")), integer(group.get("questions"))
            groups.append(v.Group(name, asked, accuracy, shuffled, text_only, ends, says(group)))
    return tuple(sorted(groups, key=lambda group: group.accuracy))


def _baselines(seen: Mapping[str, Any]) -> dict[str, v.Baseline]:
    baselines = {}
    for kind, value in seen.items():
        baseline = mapping(value)
        if (accuracy := fraction(baseline.get("accuracy"))) is not None:
            baselines[kind] = v.Baseline(
                kind=kind,
                accuracy=accuracy,
                description=text(baseline.get("description")),
                answer=text(baseline.get("answer")),
                ceiling=fraction(baseline.get("ceiling")),
                ceiling_description=text(baseline.get("ceiling_description")),
            )
    return baselines
