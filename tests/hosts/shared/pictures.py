"""Faults between the towers of a vision-language model, whoever trains it."""

from __future__ import annotations

from tests.hosts import seeing
from tests.hosts.planting import plants
from tests.hosts.task import Task


@plants("X2", "hf_trainer", "lightning", "accelerate")
def a_bridge_that_makes_giants(faulty: bool) -> Task:
    model, optimizer = seeing.planted("X2", faulty)
    return Task(model, seeing.rows(), optimizer=optimizer, steps=6)


@plants("X4", "hf_trainer", "lightning", "accelerate")
def rows_cut_from_the_left(faulty: bool) -> Task:
    """To a length that the text fits into, and the picture's tokens before it do not."""
    model, optimizer = seeing.planted("X4", faulty)
    length = 6 if faulty else 9
    rows = [{**row, **{n: row[n][-length:] for n in ("input_ids", "labels")}} for row in seeing.rows()]
    return Task(model, rows, optimizer=optimizer, steps=6)
