"""I6 on bare evidence: shares, floors, and whose time it is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.starved_loader import find
from sightline.guard.evidence import WaitingSeen

GPU = WaitingSeen(100, 64, wait=0.06, period=0.1, workers=2, exact=True, device="cuda")
CPU = replace(GPU, device="cpu", wait=0.09)


def test_an_idle_accelerator() -> None:
    found = find(GPU)
    assert isinstance(found, Finding) and "60%" in found.message
    assert "num_workers (it is 2)" in found.fix and "pin_memory" in found.fix


@pytest.mark.parametrize("change", [{"wait": 0.04}, {"wait": 0.004, "period": 0.005}])
def test_a_short_wait_is_silent(change: dict) -> None:
    assert find(replace(GPU, **change)) is None


@pytest.mark.parametrize(("wait", "found"), [(0.09, True), (0.07, False), (0.04, False)])
def test_on_a_cpu_more_is_needed(wait: float, found: bool) -> None:
    assert isinstance(find(replace(CPU, wait=wait)), Finding) is found


@pytest.mark.parametrize(
    ("samples", "share", "found"),
    [(8, 0.5, True), (8, 0.3, False), (48, 0.7, True), (48, 0.5, False), (96, 0.7, False)],
)
def test_samples_that_are_slow_in_themselves_tell_more(samples: int, share: float, found: bool) -> None:
    seen = replace(CPU, samples=samples, period=0.2, wait=share * 0.2)
    assert isinstance(find(seen), Finding) is found


@pytest.mark.parametrize(
    ("file", "share", "found"), [("all.npz", 0.5, True), ("all.npz", 0.3, False), (None, 0.5, False)]
)
def test_a_file_that_is_opened_for_each_sample(file: str | None, share: float, found: bool) -> None:
    verdict = find(replace(CPU, samples=16, period=0.02, wait=share * 0.02, reopened=file))
    assert isinstance(verdict, Finding) is found and (not found or "open all.npz once" in verdict.fix)


def test_a_gap_that_was_not_timed_in_the_loader_must_be_explained_by_it() -> None:
    gap = replace(GPU, exact=False)
    assert isinstance(find(gap), CannotTell)
    assert isinstance(find(replace(gap, make=0.1)), Finding)
    assert find(replace(gap, make=0.01)) is None


def test_few_steps_cannot_be_told() -> None:
    assert isinstance(find(replace(GPU, steps=7)), CannotTell)
