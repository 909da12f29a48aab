"""X3's borders: one rate is a fault only where it is seen to harm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.optim.one_learning_rate_for_all_towers import PATIENCE, find
from sightline.guard.evidence import History, ParameterSeen, ScheduleSeen, Setup, StepSeen, TowerSetup

ALL = TowerSetup("language", parameters=1000, trainable=1000, optimized=1000, learning_rates=(1e-3,))
CONNECTOR = replace(ALL, name="connector")
UNIFORM = (3 * 64) ** -0.5  # root mean square of torch's own initialisation for 64 inputs


def setup(**language: Any) -> Setup:
    return Setup(towers={"connector": CONNECTOR, "language": replace(ALL, **language)}, embedding_rows=1000)


def run(losses: list[float | None], language: float = 0.05, connector: float = 0.05, **more: float) -> History:
    spread, rate, first = more.get("spread", UNIFORM), more.get("rate", 1e-3), int(more.get("first", 1))

    def seen(name: str, tower: str, numel: int, rms: float, update: float) -> ParameterSeen:
        norm = rms * numel**0.5
        return ParameterSeen(name, tower, numel, "float32", True, True, rate, 0.1, norm, update * norm, True)

    parameters = (
        seen("p.weight", "connector", 64 * 256, spread, connector),
        seen("p.bias", "connector", 256, spread, connector),
        seen("l.weight", "language", 10_000, 0.05, language),
    )
    return History(tuple(StepSeen(first + n, loss=loss, parameters=parameters) for n, loss in enumerate(losses)))


BROKEN: list[float | None] = [2.0, 5.0, 4.5, 4.4, 4.2, 4.1]


def test_hot_for_the_language_model() -> None:
    verdict = find(run(BROKEN), setup())
    assert isinstance(verdict, Finding) and "0.001" in verdict.message and verdict.severity == "warning"


@pytest.mark.parametrize(
    ("history", "language"),
    [
        (run(BROKEN), {"learning_rates": (2e-5,)}),
        (run(BROKEN), {"trainable": 0, "optimized": 0}),
        (run(BROKEN), {"trainable": 10, "adapters": 10}),
        (run([6.9, 9.0, 9.0, 9.0, 9.0, 9.0]), {}),
        (run([7.5, 7.0, 6.5, 6.0, 5.0, 5.0]), {}),
        (run([2.0, 2.2, 1.9, 2.0, 1.8, 1.9]), {}),
        (run([0.05, 0.1, 0.2, 0.1, 0.2, 0.3]), {}),
        (run(BROKEN, language=0.001), {}),
        (run(BROKEN, first=7), {}),
    ],
    ids=["own rates", "frozen", "lora", "scratch diverges", "scratch", "harmless", "noise", "gentle", "joined late"],
)
def test_clean_runs_with_one_rate(history: History, language: dict[str, Any]) -> None:
    assert find(history, setup(**language)) is None


STARTED = 121  # the first step of a stage in which all learn; its optimizer is known from the next one on
JUMP: list[float | None] = [0.5, 0.45, 0.3, 0.1, *[0.05] * 14]


def joined(losses: list[float | None], start: float | None = 0.05, woken: tuple[str, ...] = ("l.weight",)) -> Any:
    """X3 on a stage that follows one of the connector alone."""
    before = tuple(StepSeen(n, loss=0.06) for n in range(STARTED - 4, STARTED))
    known = replace(run(losses, first=STARTED + 1), before=(*before, StepSeen(STARTED, loss=start)))
    return find(known, replace(setup(), unfrozen=woken, unfrozen_at=STARTED - 1))


def test_a_stage_at_the_connectors_rate() -> None:
    verdict = joined(JUMP)
    assert isinstance(verdict, Finding) and "jumped to 10 times" in verdict.message and verdict.severity == "warning"
    assert "the loss rose" in joined([0.9] * 8).message  # it does not come back
    assert joined(JUMP[:7]) is None  # not seen yet whether it does


@pytest.mark.parametrize(
    ("losses", "more"),
    [
        ([0.06] * 18, {}),
        ([0.15, 0.1, *[0.05] * 16], {}),  # a stir
        ([0.5, 0.06, *[0.05] * 16], {}),  # one hard batch
        ([0.5, 0.4, 0.05, 0.3, 0.05, 0.05, 0.5, 0.4, *[0.05] * 10], {}),  # two kinds of batches
        ([0.5, 0.1, 0.05, 0.5, *[0.05] * 14], {}),  # it does not go
        (JUMP, {"start": 0.6}),  # the stage's own data
        (JUMP, {"start": None}),
        (JUMP, {"woken": ()}),  # it learnt all the time
        (JUMP, {"woken": ("l.weight", "p.weight", "p.bias")}),  # a head learnt alone, not the connector
    ],
)
def test_stages_that_jump_for_other_reasons(losses: list[float | None], more: dict[str, Any]) -> None:
    assert joined(losses, **more) is None


def test_cold_for_a_fresh_connector() -> None:
    still: list[float | None] = [2.0] * PATIENCE
    verdict = find(run(still, language=1e-4, connector=5e-5), setup())
    assert isinstance(verdict, Finding) and "fresh connector" in verdict.message
    assert find(run(still[1:], language=1e-4, connector=5e-5), setup()) is None
    assert find(run(still, language=1e-4, connector=2e-4), setup()) is None
    assert find(run(still, language=1e-4, connector=5e-5, spread=0.2), setup()) is None  # trained before
    assert find(run(still, language=1e-4, connector=5e-5, rate=1e-5), setup()) is None  # still warming up


def test_what_cannot_be_told() -> None:
    assert isinstance(find(run([None] * 8), setup()), CannotTell)
    assert isinstance(find(run(BROKEN), Setup(towers={"model": ALL})), CannotTell)


ONE = ScheduleSeen(9, (1e-3,) * 9, scheduler="OneCycleLR", given=(1e-3, 2e-5), bases=(4e-5, 4e-5))


def test_rates_of_their_own_that_a_schedule_replaced() -> None:
    verdict = find(run([3.0] * 9), setup(), ONE)
    assert isinstance(verdict, Finding) and "0.001, 2e-05" in verdict.message and "as a list" in verdict.fix
    assert find(run([3.0] * 9), setup(), replace(ONE, given=())) is None
    assert find(run([3.0] * 9), setup(trainable=0, optimized=0), ONE) is None


def test_a_new_connector_that_the_run_left_where_it_was() -> None:
    over = ScheduleSeen(60, (1e-4,) * 60, closed=True, travelled=(0.1, 0.05))
    towers = {name: replace(ALL, name=name, learning_rates=(1e-4,)) for name in ("connector", "language")}
    cold, still = Setup(towers=towers, embedding_rows=1000), run([3.0] * 9)
    verdict = find(still, cold, over)
    assert isinstance(verdict, Finding) and "10% of its weights" in verdict.message
    assert find(still, cold, replace(over, travelled=(0.4, 0.05))) is None
    assert find(still, cold, replace(over, travelled=None)) is None
    assert find(still, cold, replace(over, rates=(1e-4,) * 20)) is None  # a trial
    assert find(still, setup(), over) is None  # 1e-3 is a connector's own
    assert find(still, setup(learning_rates=(1e-4,)), over) is None


def test_a_trained_tower_that_is_carried_away_at_a_connectors_rate() -> None:
    over = ScheduleSeen(60, (2e-3,) * 60, closed=True, travelled=(0.6, 0.3))
    verdict = find(run([3.0] * 9), setup(), over)
    assert isinstance(verdict, Finding) and "30% of its weights" in verdict.message and "0.002" in verdict.message
    assert find(run([3.0] * 9), setup(), replace(over, travelled=(0.6, 0.2))) is None  # less than the connector
    slow = Setup(
        towers={name: replace(ALL, name=name, learning_rates=(6e-4,)) for name in ("connector", "language")},
        embedding_rows=1000,
    )
    assert find(run([3.0] * 9), slow, replace(over, rates=(6e-4,) * 60)) is None
    assert isinstance(find(run([3.0] * 9), slow, replace(over, rates=(6e-4,) * 60, travelled=(0.2, 0.3))), Finding)


def test_a_group_for_nobody() -> None:
    seen = ScheduleSeen(60, (1e-3,) * 60, closed=True, travelled=(0.4, 0.05), empty=(2e-2,))
    verdict = find(run([3.0] * 9), setup(), seen)
    assert isinstance(verdict, Finding) and "the group with rate 0.02 is empty" in verdict.message
    assert find(run([3.0] * 9), setup(), replace(seen, empty=(1e-3, 2e-6))) is None  # no decay; a frozen tower
    assert find(run([3.0] * 9), setup(), replace(seen, travelled=None)) is None
