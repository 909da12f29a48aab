"""Does a model answer a batch as it did when the batch was new? By a few of its answers, kept from then."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sightline.guard.probes.call import Call, Outcome, outcome
from sightline.guard.probes.refused import refusable
from sightline.guard.probes.restore import untouched

ROWS, NUMBERS = 8, 32  # of the answers to one sample, amid the batch


def few_answers(output: Any) -> Tensor | None:
    """At most 256 numbers of a model's answers, a copy of no more than these; None of what gives none."""
    result = output if isinstance(output, Outcome) else outcome(output)
    answers = result.answers
    if answers is None or not answers.numel():
        return None
    rows = answers.detach()
    while rows.dim() > 2:
        rows = rows[rows.shape[0] // 2]
    for dim, most in ((0, ROWS), (1, NUMBERS))[: rows.dim()]:
        step = -(-rows.shape[dim] // most)
        rows = rows[::step] if dim == 0 else rows[:, ::step]
    return rows.clone()


def gap(one: Tensor | None, other: Tensor | None) -> float | None:
    """How far two of these are apart, as a root of the mean square."""
    if one is None or other is None or one.shape != other.shape:
        return None
    return float((one.double() - other.double()).square().mean().sqrt())


@refusable
def answers_now(call: Call) -> Tensor | None:
    """A few answers to this call, in the mode that the model is in."""
    with untouched(call.model), torch.no_grad():
        return few_answers(call.run())


@refusable
def drift(call: Call, then: Tensor) -> float | None:
    """How far the model's answers are from those that it gave to the same call before, in the mode that it is in."""
    return gap(answers_now(call), then)
