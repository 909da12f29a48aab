"""P6 on bare evidence: which layer, and what is no fault of a layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.precision.vanishing_or_exploding_layer import find
from sightline.guard.evidence import History, ParameterSeen, StepSeen

NUMEL = 10_000


def layer(name: str, rms: float | None, update: float = 1e-3, *, numel: int = NUMEL, **more: bool) -> ParameterSeen:
    """`rms`: root mean square of the gradient; `update`: norm of the update over that of the weights."""
    gradient = None if rms is None else rms * numel**0.5
    facts = {"trainable": True, "optimized": True, **more}
    return ParameterSeen(
        f"{name}.weight",
        "model",
        numel,
        "float32",
        facts["trainable"],
        facts["optimized"],
        1e-3,
        gradient,
        1.0,
        update,
        True,
    )


def steps(rows: Iterable[list[ParameterSeen]]) -> History:
    return History(tuple(StepSeen(n, parameters=tuple(row)) for n, row in enumerate(rows, start=1)))


def beside(odd: ParameterSeen) -> list[ParameterSeen]:
    """An odd layer between ordinary ones."""
    return [layer("first", 1e-2), odd, layer("last", 1e-2)]


@pytest.mark.parametrize(
    ("odd", "word"),
    [
        (layer("odd", 1e-9, 1e-9), "vanish"),
        (layer("odd", 1e-2, 0.99), "explode"),
        (layer("odd", 2e6, 1e-3), "explode"),
    ],
)
def test_found_and_named(odd: ParameterSeen, word: str) -> None:
    verdict = find(steps([beside(odd)] * 4))
    assert isinstance(verdict, Finding)
    assert "1 of 3 layers" in verdict.message and word in verdict.message and verdict.message.endswith("odd")


@pytest.mark.parametrize(
    "odd",
    [
        layer("odd", 1e-7, 1e-9),
        layer("odd", 1e-9, 1e-3),
        layer("odd", 0.0, 0.0),
        layer("odd", None, 0.0),
        layer("odd", 1e-9, 1e-9, numel=63),
        layer("odd", 1e-9, 1e-9, trainable=False),
        layer("odd", 1e-9, 1e-9, optimized=False),
        layer("odd", float("inf"), 1e-3),
        layer("odd", 1e-2, 0.5),
    ],
    ids=[
        "five orders", "Adam makes up", "exactly 0", "no gradient", "a bias", "frozen", "left out", "not finite", "fast"
    ],
)  # fmt: skip
def test_silent(odd: ParameterSeen) -> None:
    assert find(steps([beside(odd)] * 6)) is None


def test_a_zero_initialised_part_opens_and_its_first_update_is_its_weights() -> None:
    """A low-rank adapter: B is replaced by its first update, A has no gradient until B has moved."""
    rows = [[*beside(layer("b", 1e-2, 1 / n)), layer("a", 1e-10 * (n - 1), 1e-10)] for n in range(1, 12)]
    assert all(find(steps(rows[:n])) is None for n in range(4, 12))


@pytest.mark.parametrize(("rising", "found"), [(True, False), (False, True)])
def test_small_weights_have_yet_to_grow_while_rates_rise(rising: bool, found: bool) -> None:
    rates = [1e-4 * n if rising else 1e-3 for n in range(4)]  # a warm-up begins at 0
    rows = [[replace(p, learning_rate=rate) for p in beside(layer("odd", 1e-9, 1e-9))] for rate in rates]
    assert isinstance(find(steps(rows)), Finding) is found
    assert isinstance(find(steps([*rows, *[beside(layer("odd", 1e-9, 1e-9))] * 4])), Finding)


def test_a_scale_of_one_millionth_grows() -> None:
    rows = [beside(layer("block", 1e-9 * n, 1e-9)) for n in range(1, 30)]
    assert all(find(steps(rows[:n])) is None for n in range(4, 30))


def test_an_embedding_of_which_one_row_in_a_million_was_seen() -> None:
    table = layer("embed", 1e-2 * (1 / 1_000_000) ** 0.5, 1e-6, numel=64_000_000)
    assert find(steps([beside(table)] * 4)) is None


def test_a_key_bias_counts_with_its_weight() -> None:
    weight, bias = layer("key", 1e-2), layer("key", 1e-12, 0.0, numel=100)
    assert find(steps([[*beside(weight), bias]] * 4)) is None


@pytest.mark.parametrize(("first", "last", "found"), [(1e-3, 0.01, False), (1e-3, 0.5, True), (1e-9, 0.01, True)])
def test_what_learned_and_has_nothing_left_to_learn(first: float, last: float, found: bool) -> None:
    early, late = (
        StepSeen(0, loss, parameters=tuple(beside(layer("odd", g, 1e-9)))) for loss, g in [(1.0, first), (last, 1e-9)]
    )
    seen = [replace(step, step=n) for n, step in enumerate([early] * 4 + [late] * 4)]
    assert isinstance(find(History(tuple(seen))), Finding) is found


@pytest.mark.parametrize(
    ("shares", "losses", "steps_taken", "found"),
    [
        ([1e-9, 1e-8, 1e-1], [1.8, 1.795], 20, True),
        ([1e-9, 1e-8, 1e-1], [1.8, 1.795], 12, False),  # as yet
        ([1e-9, 1e-8, 1e-1], [1.8, 1.7], 20, False),  # it learns
        ([1e-9, 1e-8, 1e-1], [1.8, None], 20, False),
        ([1e-9, 1e-2, 1e-1], [1.8, 1.795], 20, False),  # one alone: others may go round it
        ([1e-2, 1e-9, 1e-9, 1e-1], [1.8, 1.795], 20, False),  # branches behind small scales
        ([0.0, 1e-9, 1e-1], [1.8, 1.795], 20, False),  # behind a gate
        ([1e-6, 1e-5, 1e-1], [1.8, 1.795], 20, False),
    ],
)
def test_layers_that_an_optimizer_moves_by_what_rounding_left(
    shares: list[float], losses: list[float | None], steps_taken: int, found: bool
) -> None:
    row = tuple(layer(str(n), share) for n, share in enumerate(shares))
    numbers = [1, 2, 3, 4, *range(steps_taken - 3, steps_taken + 1)]
    seen = (StepSeen(n, losses[n > 4], parameters=row) for n in numbers)
    assert isinstance(find(History(tuple(seen))), Finding) is found


@pytest.mark.parametrize(
    ("begun", "now", "found"),
    [
        ([1e-8, 1e-6, 1e-2], [0.0, 0.0, 1e-2], True),
        ([1e-8, 1e-6, 1e-2], [0.0, 1e-6, 1e-2], False),  # one alone
        ([1e-8, 1e-6, 1e-2], [1e-8, 1e-6, 1e-2], False),  # it learns
        ([1e-3, 1e-3, 1e-2], [0.0, 0.0, 1e-2], False),  # switched off by a second stage
        ([0.0, 0.0, 1e-2], [0.0, 0.0, 1e-2], False),  # behind a gate
        ([1e-2, 1e-8, 1e-6], [1e-2, 0.0, 0.0], False),  # the last ones: a part that is no more in use
    ],
)
def test_first_layers_to_which_nothing_comes_any_more(begun: list[float], now: list[float], found: bool) -> None:
    """The loss falls all the same, by what the other layers learn."""
    rows = [[layer(str(n), share) for n, share in enumerate(shares)] for shares in [begun] * 4 + [now] * 4]
    seen = [replace(step, loss=2.0 / step.step) for step in steps(rows).steps]
    assert isinstance(find(History(tuple(seen))), Finding) is found


def test_too_few_steps() -> None:
    assert isinstance(find(steps([beside(layer("odd", 1e-9, 1e-9))] * 3)), CannotTell)
