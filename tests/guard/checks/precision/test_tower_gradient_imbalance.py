"""P5 on bare evidence: orders of magnitude that stay, and those that close or do not count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.precision.tower_gradient_imbalance import find
from sightline.guard.evidence import ClippedSeen, History, ParameterSeen, ScheduleSeen, Setup, StepSeen, TowerSetup


def tower(
    name: str, gradient: float | None, *, weight: float = 10.0, numel: int = 10_000, **more: bool
) -> ParameterSeen:
    facts = {"trainable": True, "optimized": True, **more}
    return ParameterSeen(
        f"{name}.w", name, numel, "float32", facts["trainable"], facts["optimized"], 1e-3, gradient, weight, 1e-3, True
    )


def steps(*rows: Sequence[ParameterSeen]) -> History:
    return History(tuple(StepSeen(n, parameters=tuple(row)) for n, row in enumerate(rows, start=1)))


def pair(weak: float | None, strong: float = 1.0, **more) -> list[ParameterSeen]:
    return [tower("vision", weak, **more), tower("language", strong)]


def test_found_and_named() -> None:
    verdict = find(steps(*[pair(1e-4)] * 4))
    assert isinstance(verdict, Finding)
    assert "'language'" in verdict.message and "'vision'" in verdict.message and verdict.severity == "warning"


@pytest.mark.parametrize(
    "history",
    [
        steps(*[pair(2e-3)] * 6),
        steps(*[pair(1e-4, weight=1e-3)] * 6),
        steps(*[pair(1e-4)] * 3, pair(0.1)),
        steps(*[pair(1e-6 * 2**n) for n in range(6)]),
        steps(pair(0.0), *[pair(1e-5 * n) for n in range(1, 6)]),
        steps(*[pair(1e-6 * n) for n in range(1, 30)]),
        steps(*[pair(0.1 / 2**n) for n in range(20)], *[pair(1e-6)] * 8),
    ],
    ids=[
        "within three orders",
        "relative to small weights",
        "one batch",
        "warming up",
        "a gate from 0",
        "a gate from 1e-6",
        "a tower that dies",
    ],
)
def test_silent(history: History) -> None:
    assert find(history) is None


@pytest.mark.parametrize(
    "row",
    [
        pair(1e-6, numel=999),
        pair(1e-6, trainable=False),
        pair(1e-6, optimized=False),
        pair(None),
        pair(0.0),
        pair(float("nan")),
        [tower("model", 1.0)],
    ],
    ids=["small", "frozen", "not optimized", "no gradient", "zero gradient", "not finite", "one tower"],
)
def test_one_tower_alone_has_no_balance(row: list[ParameterSeen]) -> None:
    assert isinstance(find(steps(*[row] * 4)), CannotTell)


def test_a_resumed_run_does_not_show_its_first_steps() -> None:
    resumed = ScheduleSeen(4, rates=(0.1,) * 4, restored=True)
    assert isinstance(find(steps(*[pair(1e-4)] * 4), resumed), CannotTell)
    assert isinstance(find(steps(*[pair(1e-4)] * 4), replace(resumed, restored=False)), Finding)


@pytest.mark.parametrize(
    ("weak", "cut", "optimizer", "found"),
    [
        (4e-3, 300.0, "SGD", True),
        (4e-2, 300.0, "SGD", False),
        (4e-3, 5.0, "SGD", False),  # the strong tower's norm is as it should be
        (4e-3, 0.0, "SGD", False),
        (4e-3, 300.0, "AdamW", False),  # which takes the factor out again
    ],
)
def test_one_norm_that_clips_two_towers(weak: float, cut: float, optimizer: str, found: bool) -> None:
    clipped, setup = ClippedSeen(12, calls=12, cut=cut), Setup(towers={}, optimizer=optimizer)
    verdict = find(steps(*[pair(weak)] * 4), clipped=clipped, setup=setup)
    assert isinstance(verdict, Finding) is found


@pytest.mark.parametrize(
    ("cut", "update", "found"),
    [
        (15.0, 1e-3 / 40, True),
        (15.0, 1e-3 / 10, False),  # a rate of its own makes up for it
        (60.0, 1e-3 / 40, False),  # the weak tower by itself would be cut, too
        (5.0, 1e-3 / 40, False),
    ],
)
def test_a_weak_tower_that_is_cut_for_anothers_sake(cut: float, update: float, found: bool) -> None:
    clipped, setup = ClippedSeen(12, calls=12, cut=cut), Setup(towers={}, optimizer="SGD")
    row = [replace(tower("vision", 1 / 40), update_norm=update), tower("language", 1.0)]
    assert isinstance(find(steps(*[row] * 4), clipped=clipped, setup=setup), Finding) is found


@pytest.mark.parametrize(("body", "head", "found"), [(1e-5, 1.0, True), (0.5, 1e-5, False), (0.5, 1.0, False)])
def test_a_part_that_reads_beside_a_loud_head(body: float, head: float, found: bool) -> None:
    """A head or a decoder counts as part of the tower that reads, and may have a loss of its own."""
    text, decoder = (replace(tower(name, norm), tower="language") for name, norm in (("text", body), ("out", head)))
    reads = TowerSetup("language", 20_000, 20_000, 20_000, readers=("text",))
    verdict = find(steps(*[[tower("vision", 1.0), text, decoder]] * 4), setup=Setup(towers={"language": reads}))
    assert isinstance(verdict, Finding) is found
    if isinstance(verdict, Finding):
        assert "'vision'" in verdict.message and "'text'" in verdict.message
    told = find(steps(*[[replace(tower("vision", 1e-5), trainable=False), text, decoder]] * 4))
    assert isinstance(told, CannotTell)  # of one tower alone


@pytest.mark.parametrize(("depth", "found"), [(1e-5, True), (0.1, False)])
def test_encoders_of_one_kind_side_by_side(depth: float, found: bool) -> None:
    norms = {"rgb": 1.0, "depth": depth, "head": 1e-6}
    row = [replace(tower(name, norm), tower="model") for name, norm in norms.items()]
    one = TowerSetup("model", 30_000, 30_000, 30_000, readers=("rgb", "depth"))
    verdict = find(steps(*[row] * 4), setup=Setup(towers={"model": one}))
    assert isinstance(verdict, Finding) is found


def test_too_few_steps() -> None:
    assert isinstance(find(steps(*[pair(1e-6)] * 3)), CannotTell)
