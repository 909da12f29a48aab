"""P2 on bare evidence."""

from __future__ import annotations

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.precision.loss_scale_collapse import find
from sightline.guard.evidence import ScalerSeen


@pytest.mark.parametrize(
    ("scales", "taken", "found"),
    [
        ((65536.0, 1.0, 0.5), 3, True),
        ((0.5,), 0, True),
        ((65536.0, 1.0), 3, False),
        ((65536.0, 128.0, 65536.0), 9, False),
        ((0.5, 0.5), 9, False),
        ((0.25, 0.5), 9, False),
    ],
    ids=["fell", "not one step", "at 1", "level", "always low", "growing"],
)
def test_the_scale(scales: tuple[float, ...], taken: int, found: bool) -> None:
    assert isinstance(find(ScalerSeen(9, scales, (), 40, taken)), Finding) is found


def test_no_scale() -> None:
    assert isinstance(find(ScalerSeen(1, ())), CannotTell)
