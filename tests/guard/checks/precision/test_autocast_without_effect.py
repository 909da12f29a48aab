"""P7's borders: how many products may stay in float32, and where autocast was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.guard.check import Finding
from sightline.guard.checks.precision.autocast_without_effect import find
from sightline.guard.evidence import AutocastSeen

ALL = AutocastSeen(1, "cpu", "bfloat16", "cpu", {"float32": 20}, {"float32": 2000})


def test_all_in_float32() -> None:
    found = find(ALL)
    assert isinstance(found, Finding) and found.severity == "warning" and "20 of 20" in found.message
    elsewhere = find(replace(ALL, asked_on="cuda"))
    assert isinstance(elsewhere, Finding) and "device type: 'cpu'" in elsewhere.fix


@pytest.mark.parametrize(
    ("products", "elements", "found"),
    [
        ({"float32": 18, "bfloat16": 2}, {"float32": 1800, "bfloat16": 200}, True),
        ({"float32": 17, "bfloat16": 3}, {"float32": 1800, "bfloat16": 200}, False),
        ({"float32": 1, "bfloat16": 12}, {"float32": 50_000, "bfloat16": 900}, False),  # a large head in float32
        ({"float32": 18, "bfloat16": 2}, {"float32": 1700, "bfloat16": 300}, False),
        ({"float32": 1}, {"float32": 2000}, False),
        ({"float32": 2}, {"float32": 2000}, True),
        ({"float64": 20}, {"float64": 2000}, False),  # autocast leaves doubles alone
        ({"bfloat16": 20}, {"bfloat16": 2000}, False),
    ],
)
def test_how_many(products: dict[str, int], elements: dict[str, int], found: bool) -> None:
    assert isinstance(find(replace(ALL, products=products, elements=elements)), Finding) == found
