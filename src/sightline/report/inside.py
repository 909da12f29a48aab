"""The lines of metrics.jsonl that tell of single steps and of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sightline.report.files import integer, mapping, real, reals, text
from sightline.report.values import LayerPoint, StepPoint


def step_points(line: Mapping[str, Any], last: int) -> Iterator[StepPoint]:
    """The steps of a window that ends with step `last` of the run, oldest first."""
    losses, norms = ([real(value) for value in _listed(line.get(key))] for key in ("loss", "grad_norm"))
    own = integer(line.get("step"))
    for place, loss in enumerate(losses):
        back = len(losses) - 1 - place
        norm = norms[place] if place < len(norms) else None
        yield StepPoint(text(line.get("stage")), last - back, (last if own is None else own) - back, loss, norm)


def layer_point(line: Mapping[str, Any], step: int) -> LayerPoint:
    """A line on the layers after step `step` of the run."""
    norms = {name: real(value) for name, value in mapping(line.get("grad_norm")).items()}
    kinds = ("weight_norm", "update_ratio", "attention_entropy", "dead_units")
    return LayerPoint(text(line.get("stage")), step, norms, *(reals(line.get(kind)) for kind in kinds))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
