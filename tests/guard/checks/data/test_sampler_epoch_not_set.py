"""I3 on bare evidence: orders of epochs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.sampler_epoch_not_set import find
from sightline.guard.evidence import LoaderSeen

SAME = LoaderSeen(8, 1, iterable=False, workers=0, replicas=2, shuffles=True, orders=(5, 5), samples=16)


def test_two_epochs_in_one_order() -> None:
    found = find(SAME)
    assert isinstance(found, Finding) and "epochs 0 and 1" in found.message


@pytest.mark.parametrize("change", [{"orders": (5, 6)}, {"orders": (5, 5, 6)}, {"shuffles": False}, {"replicas": None}])
def test_other_orders_no_shuffle_no_split_are_silent(change: dict) -> None:
    assert find(replace(SAME, **change)) is None


def test_few_samples_may_come_in_the_same_order_by_chance() -> None:
    assert find(replace(SAME, samples=7)) is None
    assert isinstance(find(replace(SAME, samples=8)), Finding)


@pytest.mark.parametrize("orders", [(), (5,), (None, None), (5, None)])
def test_one_order_cannot_be_compared(orders: tuple) -> None:
    assert isinstance(find(replace(SAME, orders=orders)), CannotTell)
