"""T6 on bare evidence: which rates, ticks and plans prove something."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.optim.schedule_out_of_step import find
from sightline.guard.evidence import LoaderSeen, ScheduleSeen, Setup, TowerSetup


def seen(rates: list[float], **more: Any) -> ScheduleSeen:
    return ScheduleSeen(step=len(rates), rates=tuple(rates), **{"forwards": len(rates), **more})


FLAT = [0.1] * 40
FLOOR = [0.1 * max(0.01, 1 - 4 * n / 40) for n in range(40)]  # planned for 40, and 4 micro-batches a step
WAVE = [min(1.0, (n + 1) / 8, 0.5 + 0.5 * math.cos(math.pi * (n - 8) / 112)) for n in range(40)]  # planned for 120
FLOORED = [0.02 + 0.98 * rate if n >= 8 else rate for n, rate in enumerate(WAVE)]
MICRO = {"scheduler": "LambdaLR", "ticks": 160, "inside": 40, "forwards": 160, "closed": True}
DOWN = [0.1 * (1 - n / 20) for n in range(20)]
SAW = [0.1 * min(1.0, (n % 10) / 5) for n in range(40)]


@pytest.mark.parametrize(
    ("rates", "more", "word"),
    [
        (DOWN + [0.0] * 20, {}, "is 0"),
        ([0.1 * 0.3 ** (n // 2) for n in range(40)], {}, "below a millionth"),  # a step schedule, once a batch
        (SAW, {}, "anew every 10"),
        (SAW, {"scheduler": "LambdaLR", "replaced": (10, 20, 30)}, "anew"),
        (FLAT, {"scheduler": "OneCycleLR", "ticks": 4, "horizon": 40, "closed": True}, "optimizer steps"),
        (FLAT, {"scheduler": "LambdaLR", "ticks": 8, "foreseen": 40, "closed": True}, "optimizer steps"),
        (FLAT, {"scheduler": "X", "ticks": 40, "horizon": 160, "forwards": 160, "closed": True}, "micro-batches"),
        (DOWN + DOWN[::-1], {"scheduler": "CosineAnnealingLR", "ticks": 40, "horizon": 20, "periodic": True}, "rises"),
        (FLOOR, MICRO, "over after 10 of 40 steps"),
        (WAVE, {"scheduler": "X", "ticks": 40, "forwards": 120, "closed": True, "base": 1.0}, "micro-batches"),
        (FLOORED, {"scheduler": "X", "ticks": 40, "forwards": 120, "closed": True, "base": 1.0}, "micro-batches"),
        (FLAT, {"scheduler": "X", "ticks": 40, "early": 39}, "before the optimizer"),
        (FLAT, {"elsewhere": 5, "closed": True}, "another one replaced"),
        (FLAT, {"scheduler": "X", "ticks": 40, "first_tick": 1, "first_forwards": 1}, "before the optimizer"),
    ],
)
def test_found(rates: list[float], more: dict[str, Any], word: str) -> None:
    verdict = find(seen(rates, **more))
    assert isinstance(verdict, Finding) and word in verdict.message and verdict.severity == "warning"


@pytest.mark.parametrize(
    ("rates", "more"),
    [
        (FLAT, {}),
        (FLAT, {"elsewhere": 1, "closed": True}),
        (FLAT, {"elsewhere": 5}),
        (FLAT, {"scheduler": "X", "ticks": 40, "horizon": 160, "forwards": 160, "joined": True, "closed": True}),
        ([*DOWN, 0.0], {}),
        (DOWN + [0.01] * 20, {}),
        ([0.1 * 0.1 ** (n // 8) for n in range(56)], {}),  # six times a tenth
        ([0.0] * 40, {}),
        ([0.0] * 5 + FLAT, {}),
        (SAW[:19], {}),
        (SAW, {"scheduler": "CyclicLR", "ticks": 40}),
        (SAW, {"scheduler": "X", "replaced": (10,)}),
        (SAW, {"scheduler": "X", "replaced": (10, 30)}),
        (FLAT, {"scheduler": "X", "ticks": 4, "horizon": 100, "closed": True}),
        (FLAT, {"scheduler": "LambdaLR", "ticks": 8, "foreseen": 300, "closed": True}),
        (FLAT, {"scheduler": "X", "ticks": 4, "horizon": 40, "closed": False}),
        (FLAT, {"scheduler": "X", "ticks": 4, "horizon": 40, "closed": True, "restored": True}),
        (FLAT, {"scheduler": "X", "ticks": 40, "early": 39, "inside": 39}),
        (FLOORED, {"scheduler": "X", "ticks": 40, "forwards": 40, "closed": True, "base": 1.0}),  # a run cut short
        (FLOORED, {"scheduler": "X", "ticks": 40, "forwards": 160, "closed": True, "base": 1.0}),
        ([0.1 * max(0.01, 1 - n / 20) for n in range(40)], MICRO),  # half of the run at the floor, by design
        ([0.1 * 0.1 ** (n >= 10) for n in range(40)], MICRO),  # stairs
        (FLOOR, {**MICRO, "ticks": 40, "inside": 0, "forwards": 40}),
        (FLOOR, {**MICRO, "closed": False}),
        (FLAT, {"scheduler": "X", "ticks": 40, "first_tick": 1, "first_forwards": 2}),
        (FLAT, {"scheduler": "X", "ticks": 40, "first_tick": 1, "first_forwards": 1, "restored": True}),
        (DOWN + DOWN[::-1], {"scheduler": "CosineAnnealingLR", "ticks": 40, "horizon": 40, "periodic": True}),
    ],
)
def test_silent(rates: list[float], more: dict[str, Any]) -> None:
    assert find(seen(rates, **more)) is None


@pytest.mark.parametrize(("ticks", "both"), [(40, True), (20, False), (None, False)])
def test_what_is_over_too_soon_may_count_epochs(ticks: int | None, both: bool) -> None:
    verdict = find(seen(DOWN + [0.0] * 20, scheduler="X" if ticks else None, ticks=ticks))
    assert isinstance(verdict, Finding) and ("once per epoch" in verdict.fix) == both


def test_too_few_steps() -> None:
    assert isinstance(find(seen([0.1] * 7)), CannotTell)


def rounded(
    epochs: int = 6, batches: int = 9, each: int = 2, *, plan: str = "floor", loop: str = "ceil", **more: Any
) -> tuple[ScheduleSeen, LoaderSeen]:
    """A linear decay over the planned steps; a loop that ends with its epochs or with the plan."""
    down, up = batches // each, -(-batches // each)
    an_epoch, planned = {"floor": down, "ceil": up}[loop], epochs * {"floor": down, "ceil": up}[plan]
    steps = min(epochs * an_epoch, more.pop("limit", planned))
    begun = -(-steps // an_epoch)
    starts = tuple(range(0, begun * an_epoch, an_epoch))
    whole = steps == begun * an_epoch
    forwards = begun * batches if whole else (begun - 1) * batches + (steps - starts[-1]) * each
    planned = more.pop("planned", planned)
    facts = {"forwards": forwards, "first_forwards": each, "closed": True, "horizon": planned, "ticks": steps, **more}
    rates = [max(0.0, 0.1 * (1 - n / planned)) for n in range(steps)]
    return seen(rates, **facts), LoaderSeen(steps, begun - 1, False, 0, batches=batches, starts=starts)


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({}, "middle of an epoch"),
        ({"horizon": None}, "middle of an epoch"),
        ({"epochs": 3, "batches": 107, "each": 4}, "middle of an epoch"),
        ({"epochs": 4, "batches": 101, "each": 4}, "middle of an epoch"),
        ({"plan": "ceil", "loop": "floor"}, "never comes to its end"),
        ({"plan": "ceil", "loop": "floor", "batches": 11, "each": 4}, "never comes to its end"),
    ],
)
def test_steps_of_an_epoch_rounded_in_two_ways(how: dict[str, Any], word: str) -> None:
    verdict = find(*rounded(**how))
    assert isinstance(verdict, Finding) and word in verdict.message and verdict.severity == "warning"


@pytest.mark.parametrize(
    "how",
    [
        {"plan": "ceil"},
        {"plan": "floor", "loop": "floor"},
        {"batches": 8},
        {"each": 1},
        {"limit": 20, "planned": 20},
        {"limit": 16, "planned": 16},
        {"limit": 23, "planned": 23},
        {"horizon": 30, "planned": 60},
        {"closed": False},
        {"restored": True},
        {"forwards": 40},
        {"plan": "ceil", "loop": "floor", "epochs": 3},
    ],
    ids=str,
)
def test_epochs_that_fit_or_a_limit_by_hand(how: dict[str, Any]) -> None:
    assert find(*rounded(**how)) is None


def test_a_run_that_was_stopped_after_some_epochs() -> None:
    schedule, loader = rounded(epochs=3, loop="floor", plan="floor", planned=30, horizon=30)
    assert find(schedule, loader) is None


WARM = {"scheduler": "LambdaLR", "ticks": 40, "base": 1.0, "closed": True, "planned": 40}
RISING = [(n + 1) / 100 for n in range(40)]
SLOW = [1 - n / 400 for n in range(40)]


@pytest.mark.parametrize(
    ("rates", "more", "word"),
    [
        ([1 - n / 10 for n in range(12)], {}, "below 0"),
        ([r for r in RISING[:4] for _ in range(50)], {**WARM, "ticks": 4}, "warm-up takes 99 steps"),
        ([(n + 1) / 200 for n in range(40)], WARM, "warm-up takes 199 steps, and the run has 40"),
        (SLOW, WARM, "planned for 400 steps"),
        (SLOW, {**WARM, "horizon": 400}, "planned for 400 steps"),
        ([1.0] * 10 + [r for n in range(1, 4) for r in [1 - n / 40] * 10], {**WARM, "ticks": 4}, "in optimizer steps"),
    ],
)
def test_what_a_closure_shows_of_its_plan(rates: list[float], more: dict[str, Any], word: str) -> None:
    verdict = find(seen(rates, **more))
    assert isinstance(verdict, Finding) and word in verdict.message and verdict.severity == "warning"
    assert ("interval='step'" in verdict.fix) == word.endswith("takes 99 steps")


def test_a_run_that_ends_in_its_warm_up_may_be_a_trial() -> None:
    for rates, more in ((RISING, WARM), ([n / 500 for n in range(1, 21)], {**WARM, "ticks": 20, "planned": 20})):
        verdict = find(seen(rates, **more))
        assert isinstance(verdict, Finding) and verdict.severity == "note"


@pytest.mark.parametrize(
    ("rates", "more"),
    [
        (RISING, {**WARM, "planned": None}),
        (RISING, {**WARM, "planned": 100}),
        (SLOW, {**WARM, "planned": None}),
        (SLOW, {**WARM, "planned": 400}),
        (SLOW, {**WARM, "restored": True}),
        ([0.9999**n for n in range(40)], WARM),
        ([r for r in RISING[:4] for _ in range(10)], {**WARM, "ticks": 4}),
        ([r for n in range(4) for r in [(n + 1) / 10] * 50], {**WARM, "ticks": 4, "planned": 200}),
        ([r for n in range(4) for r in [1 - n / 100] * 10], {**WARM, "ticks": 4}),
    ],
    ids=[
        "unknown",
        "stopped",
        "unknown plan",
        "cut short",
        "resumed",
        "exponential",
        "long",
        "in epochs",
        "T_max of 100",
    ],
)
def test_a_plan_that_may_be_meant(rates: list[float], more: dict[str, Any]) -> None:
    verdict = find(seen(rates, **more))
    assert verdict is None or (isinstance(verdict, Finding) and verdict.severity == "note")


OWN = {"given": (0.1, 0.01), "bases": (0.1, 0.01)}
HAND = [0.1 * (1 - n / 80) for n in range(40)]


@pytest.mark.parametrize(
    ("rates", "more", "word"),
    [
        (FLAT, {"scheduler": "OneCycleLR", "given": (0.1, 0.01), "bases": (0.004, 0.004)}, "one max_lr for all"),
        (FLAT, {"scheduler": "Rule", **OWN}, "Rule sets one for all"),
        (HAND, {"given": (0.1, 0.01), "bases": (0.0, 0.0), "ticks": 39, "closed": True}, "the loop sets one for all"),
    ],
)
def test_one_rate_for_groups_that_were_given_several(rates: list[float], more: dict[str, Any], word: str) -> None:
    verdict = find(seen(rates, **more))
    assert isinstance(verdict, Finding) and word in verdict.message and "0.1, 0.01" in verdict.message


@pytest.mark.parametrize(
    ("rates", "more"),
    [
        (FLAT, {"scheduler": "OneCycleLR", "given": (0.1, 0.1), "bases": (0.004, 0.004)}),
        (FLAT, {"scheduler": "OneCycleLR", "given": (0.1, 0.08), "bases": (0.004, 0.004)}),
        (FLAT, {"scheduler": "OneCycleLR", "given": (0.1, 0.01), "bases": (0.004, 0.004), "restored": True}),
        (FLAT, {"scheduler": "CosineAnnealingLR", "given": (0.1, 0.01), "bases": (0.1, 0.1)}),
        (FLAT, {"given": (0.1, 0.01), "bases": (0.0, 0.0), "closed": True}),
        (HAND, {"given": (0.1, 0.01), "bases": (0.0, 0.0), "ticks": 39}),
        (HAND, {"given": (0.5, 0.01), "bases": (0.0, 0.0), "ticks": 39, "closed": True}),
    ],
    ids=["the same", "close", "restored", "set by hand before", "set by hand once", "not over yet", "a search"],
)
def test_rates_that_may_be_meant(rates: list[float], more: dict[str, Any]) -> None:
    assert find(seen(rates, **more)) is None


def test_joined_towers_are_told_by_another_check() -> None:
    tower = TowerSetup("language", parameters=9, trainable=9, optimized=9)
    joint = Setup(towers={"connector": tower, "language": tower})
    faulty = seen(FLAT, scheduler="Rule", **OWN)
    assert find(faulty, setup=joint) is None and find(faulty, setup=Setup(towers={"language": tower}))


IDLE = {"scheduler": "StepLR", "ticks": 0, "first_tick": 0, "called": 0, "first_forwards": 1, "closed": True}


def loader(*starts: int, batches: int | None = 16, steps: int = 40, **more: Any) -> LoaderSeen:
    return LoaderSeen(steps, len(starts) - 1, False, 0, batches=batches, starts=starts, **more)


def test_a_schedule_that_nobody_calls() -> None:
    verdict = find(seen(FLAT, **IDLE), loader(0, 16, 32))
    assert isinstance(verdict, Finding) and "never called" in verdict.message and verdict.severity == "warning"
    for more in ({"called": 1}, {"called": None}, {"ticks": 1}, {"closed": False}, {"restored": True}):
        assert find(seen(FLAT, **{**IDLE, **more}), loader(0, 16, 32)) is None
    assert find(seen(FLAT, **IDLE)) is find(seen(FLAT, **IDLE), loader(0)) is None
    assert find(seen(FLAT, **IDLE), loader(0, 2, 4)) is None  # of each epoch, a little is taken
    assert find(seen(FLAT[:10], **IDLE), loader(0, 16, 32)) is not None
    assert find(replace(seen(FLAT[:10], **IDLE), step=40), loader(0, 16, 32)) is None  # the others are another stage's


CYCLES = {"scheduler": "CyclicLR", "ticks": 5, "closed": True}


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"rise": 40}, True),
        ({"cycle": 48}, True),
        ({"cycle": 40}, False),  # no whole epochs
        ({"cycle": 80}, False),  # a round number of epochs, some of which are tried
        ({"rise": 40, "ticks": 80}, False),
        ({"rise": 16}, False),
        ({"rise": 200}, False),  # longer than the run, as it is stepped now
        ({"rise": 40, "closed": False}, False),
        ({"rise": 40, "ticks": 2}, False),  # a trial
    ],
)
def test_cycles_of_steps_that_are_stepped_once_an_epoch(more: dict[str, Any], found: bool) -> None:
    verdict = find(seen([0.1] * 80, **{**CYCLES, **more}), loader(0, 16, 32, 48, 64, steps=80))
    assert isinstance(verdict, Finding) == found
    assert not found or "it advanced 5 times" in verdict.message  # type: ignore[union-attr]


EACH = {"scheduler": "X", "ticks": 160, "first_forwards": 1, "closed": True}
TEN = loader(*range(0, 160, 16), steps=160)  # epochs


def down_to(share: float, steps: int, of: int = 160) -> list[float]:
    return [max(share, 1 - n / steps) for n in range(of)]


def stairs(*cuts: int, of: int = 160, by: float = 0.1) -> list[float]:
    return [by ** sum(n >= cut for cut in cuts) for n in range(of)]


@pytest.mark.parametrize(
    ("rates", "more"),
    [
        (down_to(0.05, 10), {"horizon": 10}),
        (down_to(0.05, 10), {"foreseen": 10}),
        (down_to(0.05, 10), {"foreseen": 11}),
        (stairs(6, 9), {}),
        (stairs(5, by=0.5), {}),
    ],
)
def test_a_plan_in_epochs_that_is_stepped_with_every_batch(rates: list[float], more: dict[str, Any]) -> None:
    verdict = find(seen(rates, **EACH, **more), TEN)
    assert isinstance(verdict, Finding) and "planned in epochs" in verdict.message and verdict.severity == "warning"


@pytest.mark.parametrize(
    ("rates", "more", "feed"),
    [
        (down_to(0.05, 20), {"horizon": 20}, TEN),  # decays fast, by design
        (down_to(0.05, 40), {"horizon": 40}, loader(*range(0, 160, 4), batches=4)),  # a fourth of a run of 40 epochs
        (down_to(0.6, 10), {"horizon": 10}, TEN),  # hardly comes down
        (down_to(0.05, 10), {"horizon": 10, "ticks": 10}, TEN),
        (down_to(0.05, 10), {"horizon": 10, "closed": False}, TEN),
        (down_to(0.05, 10), {"horizon": 10}, None),
        (down_to(0.05, 10), {"horizon": 10}, loader(batches=16)),  # where its epochs begin is not known
        (stairs(4), {}, TEN),
        (stairs(16), {}, loader(*range(0, 160, 8), batches=8)),  # two epochs of 20
        (stairs(6, 9, by=0.8), {}, TEN),
        (stairs(6, 9, 60), {}, TEN),
        ([0.1 if n < 9 else 1.0 for n in range(160)], {}, TEN),  # a warm-up
    ],
)
def test_plans_in_steps_that_are_short(rates: list[float], more: dict[str, Any], feed: LoaderSeen | None) -> None:
    assert find(seen(rates, **{**EACH, **more}), feed) is None
    assert find(replace(seen(down_to(0.05, 10), **EACH, horizon=10), step=400), TEN) is None  # a fold of several


def by_factor(by: float, apart: int = 1, of: int = 160) -> list[float]:
    return [0.1 * by ** (n // apart) for n in range(of)]


@pytest.mark.parametrize(
    ("rates", "word"), [(by_factor(0.95), "with every step"), (by_factor(0.5, 8), "every 8 steps, 2 times an epoch")]
)
def test_a_decay_for_epochs_that_is_stepped_with_every_batch(rates: list[float], word: str) -> None:
    verdict = find(seen(rates, **EACH), TEN)
    assert isinstance(verdict, Finding) and word in verdict.message and "once an epoch" in verdict.fix
    for more in ({"ticks": 10}, {"restored": True}, {"closed": False}, {"horizon": 160}):
        assert find(seen(rates, **{**EACH, **more}), TEN) is None


@pytest.mark.parametrize(
    ("rates", "feed"),
    [
        (by_factor(0.97), TEN),  # a hundredth is left
        (by_factor(1e-4 ** (1 / 160)), TEN),  # a factor that was computed for so many steps
        (by_factor(0.5, 12), loader(*range(0, 160, 16), steps=160)),  # in steps, once in most epochs
        (by_factor(0.95), loader(0, 80, batches=80, steps=160)),  # two epochs
        (by_factor(0.95), loader(*range(0, 160, 4), batches=4, steps=160)),  # a fifth less in each
        ([0.1 * 0.95 ** max(0, n - 60) + (n < 60) * 1e-3 * n for n in range(240)], TEN),  # behind a warm-up
        ([0.1 / (1 + n) ** 2 for n in range(160)], TEN),
        (by_factor(1 / 0.95), TEN),  # a search for rates
    ],
)
def test_decays_that_are_planned_in_steps(rates: list[float], feed: LoaderSeen) -> None:
    assert find(seen(rates, **{**EACH, "ticks": len(rates)}), feed) is None


SLOWLY = {"scheduler": "X", "ticks": 160, "first_forwards": 1, "closed": True}


@pytest.mark.parametrize(
    ("plan", "more", "word"),
    [
        (10 * 500, {"length": 500, "size": 32}, "samples"),
        (10 * 512, {"length": 512, "size": 32}, "samples"),
        (10 * 125, {"length": 125, "size": 8}, "samples"),
        (10 * 512, {"length": 512, "size": 1}, None),
        (10 * 512, {"length": 256, "size": 16}, None),
        (10 * 512, {}, None),
        (10 * 128, {"length": 128, "size": 8}, None),  # stopped after 10 of 80 epochs
        (100 * 160, {"length": 1600, "size": 100}, None),  # after 10 of 1000
    ],
)
def test_a_plan_in_samples(plan: int, more: dict[str, Any], word: str | None) -> None:
    feed = loader(*range(0, 160, 16), steps=160, **more)
    verdict = find(seen([0.1] * 160, **{**SLOWLY, "horizon": plan}), feed)
    assert (verdict is None) if word is None else (isinstance(verdict, Finding) and word in verdict.message)
    assert find(seen([0.1] * 155, **{**SLOWLY, "horizon": plan, "ticks": 155}), feed) is None  # ends in mid-epoch


def test_a_warm_up_that_is_longer_than_its_plan() -> None:
    rising, whole = [(n + 1) / 300 for n in range(160)], {**SLOWLY, "base": 1.0, "horizon": 160}
    verdict = find(seen(rising, **whole), TEN)
    assert isinstance(verdict, Finding) and "its warm-up takes 299" in verdict.message
    assert verdict.severity == "warning"
    for more in ({"horizon": 1600}, {"horizon": None}, {"closed": False}, {"restored": True}, {"base": 160 / 300}):
        assert find(seen(rising, **{**whole, **more}), TEN) is None
    assert find(seen(rising, **whole), loader(0, 80, batches=80)) is None  # two epochs may be a trial
    assert find(seen(rising, **whole)) is None
