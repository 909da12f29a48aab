"""Is a metric perfect where the predictions are? The ground truth itself is fed to it, and then spoilt."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sightline.errors import UserError
from sightline.guard.evidence import OracleSeen
from sightline.guard.probes.fields import deep_copy

SHIFTS = (1, 2, 3)  # rows by which predictions are moved on: other samples' truths


def oracle(
    metric: Callable[..., Any], targets: Any, predictions: Any, name: str, step: int, perfect: float | None
) -> OracleSeen | None:
    """Score `predictions` (the ground truth in the form of predictions) and versions in which rows changed places.

    `metric` is called as ``metric(predictions, targets)``; one with ``update`` and ``compute`` is used as such, on a
    copy. None where fewer than two rows differ, so that nothing can be spoilt.

    Raises:
        UserError: the metric's value is no number.
    """
    spoilt = [moved for shift in SHIFTS if not _same(moved := _moved(predictions, shift), predictions)]
    if not spoilt:
        return None
    with torch.no_grad():
        truth = _score(metric, predictions, targets, name)
        values = tuple(_score(metric, other, targets, name) for other in spoilt)
    return OracleSeen(step, name, truth, values, perfect)


def _score(metric: Any, predictions: Any, targets: Any, name: str) -> float:
    if all(hasattr(metric, part) for part in ("update", "compute", "reset")):
        own = copy.deepcopy(metric)
        own.reset()
        own.update(deep_copy(predictions), deep_copy(targets))
        value = own.compute()
    else:
        value = metric(deep_copy(predictions), deep_copy(targets))
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        fix = "pass a function that picks one number, such as lambda p, t: metric(p, t)['accuracy']"
        raise UserError(f"the metric gave {type(value).__name__}, not a number", where=name, fix=fix) from error


def _moved(rows: Any, shift: int) -> Any:
    if isinstance(rows, Tensor):
        return rows.roll(shift, dims=0)
    if isinstance(rows, Sequence) and not isinstance(rows, str):
        cut = shift % max(1, len(rows))
        return type(rows)([*rows[-cut:], *rows[:-cut]]) if isinstance(rows, list | tuple) else rows
    if hasattr(rows, "__array__"):
        return type(rows)(rows) if not hasattr(rows, "copy") else torch.as_tensor(rows.copy()).roll(shift, 0).numpy()
    return rows


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if hasattr(one, "__array__"):
        return bool((one == other).all())
    return repr(one) == repr(other)
