"""What a sweep found: the figures of its runs, one line a run, and their means over seeds, one line a setting."""

from __future__ import annotations

import csv
import io
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from sightline.report.files import mapping, read_json, read_lines, real

# The 0.975 quantile of Student's t by degrees of freedom, 1 to 30; beyond, the normal's and a first correction.
T95: tuple[float, ...] = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
LOWER_IS_BETTER = ("loss", "validation loss", "perplexity")
HEADLINES = ("accuracy", "rsum", "perplexity", "validation accuracy", "validation loss", "loss")  # the first there is


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run. `status` as its run.json says, "waiting" where it has not begun."""

    number: int
    setting: Mapping[str, str]
    seed: int
    status: str
    figures: Mapping[str, float]


def outcome(number: int, setting: Mapping[str, str], seed: int, run: Path) -> Outcome:
    """The run in the folder `run`, whatever there is of it."""
    notes: list[str] = []
    facts = read_json(run / "run.json", dict, notes)
    figures: dict[str, float] = {}
    if (run / "metrics.jsonl").is_file():
        for event in read_lines(run / "metrics.jsonl", notes):
            before = {"train": "", "validation": "validation "}.get(str(event.get("event")))
            for name in ("loss", "accuracy") if before is not None else ():
                if (value := real(event.get(name))) is not None:
                    figures[f"{before}{name}"] = value  # the last one stays
    asked = mapping(read_json(run / "evaluation.json", dict, notes))
    figures |= {
        name: value for name in ("accuracy", "rsum", "perplexity") if (value := real(asked.get(name))) is not None
    }
    return Outcome(number, setting, seed, str(facts.get("status", "waiting")), figures)


def headline(outcomes: Sequence[Outcome]) -> str | None:
    """The figure that settings are ranked by: the first of HEADLINES that every finished run has."""
    done = [each for each in outcomes if each.status == "finished"]
    return next((name for name in HEADLINES if done and all(name in each.figures for each in done)), None)


def interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean by Student's t; None for a single value."""
    if len(values) < 2:
        return None
    free = len(values) - 1
    quantile = T95[free - 1] if free <= len(T95) else 1.95996 + 2.3725 / free
    half = quantile * stdev(values) / math.sqrt(len(values))
    return fmean(values) - half, fmean(values) + half


def by_setting(outcomes: Sequence[Outcome], figure: str) -> list[tuple[Mapping[str, str], list[float]]]:
    """Each setting's values of `figure` over its finished runs, the best mean first; those without any, last."""
    grouped: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
    for each in outcomes:
        values = grouped[tuple(each.setting.items())]
        if each.status == "finished":
            values.append(each.figures[figure])
    sign = 1 if figure in LOWER_IS_BETTER else -1
    ranked = sorted(grouped.items(), key=lambda pair: sign * fmean(pair[1]) if pair[1] else math.inf)
    return [(dict(key), values) for key, values in ranked]


def as_csv(outcomes: Sequence[Outcome]) -> str:
    """One line a run."""
    keys = list(dict.fromkeys(key for each in outcomes for key in each.setting))
    names = sorted({name for each in outcomes for name in each.figures})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", *keys, "seed", "status", *names])
    for each in outcomes:
        row: list[Any] = [each.number, *(each.setting.get(key, "") for key in keys), each.seed, each.status]
        writer.writerow([*row, *(each.figures.get(name, "") for name in names)])
    return out.getvalue()


def as_page(name: str, outcomes: Sequence[Outcome]) -> str:
    """Settings ranked, and what is missing."""
    done = sum(each.status == "finished" for each in outcomes)
    lines = [
        f"# Sweep of {name}",
        "",
        f"{done} of {len(outcomes)} runs are finished; `results.csv` has a line for each.",
        "",
    ]
    figure = headline(outcomes)
    if figure is None:
        return "\n".join([*lines, "No figure is common to all finished runs."]) + "\n"
    ranked = by_setting(outcomes, figure)
    keys = list(ranked[0][0])
    better = "lower" if figure in LOWER_IS_BETTER else "higher"
    lines += [f"By {figure}, {better} is better. Intervals: 95 %, Student's t over seeds.", ""]
    lines += [_row([*keys, f"{figure}, mean", "interval", "runs"]), _row(["---"] * (len(keys) + 3))]
    for setting, values in ranked:
        lines.append(_row([*(f"`{setting[key]}`" for key in keys), *told(values)]))
    lines += ["", *_verdict(ranked)]
    ended = [each for each in outcomes if each.status != "finished"]
    lines += [f"- run {each.number}: {each.status}" for each in ended]
    return "\n".join(lines).rstrip() + "\n"


def told(values: Sequence[float]) -> list[str]:
    """The mean of a setting's values, its interval, and how many there are."""
    between = interval(values)
    spread = f"{between[0]:.4g} to {between[1]:.4g}" if between else "-"
    return [f"{fmean(values):.4g}" if values else "-", spread, str(len(values))]


def _verdict(ranked: Sequence[tuple[Mapping[str, str], list[float]]]) -> list[str]:
    """Whether the best can be told from the next; with many settings some difference is always there by chance."""
    between = [interval(values) for _, values in ranked if values]
    if len(between) < 2:
        return []
    first, second = between[:2]
    if first is None or second is None:
        return ["One seed a setting: differences may be chance. `--seeds 3` or more gives intervals.", ""]
    if first[0] <= second[1] and second[0] <= first[1]:
        return ["The intervals of the best two overlap: which is better is not settled.", ""]
    return []


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
