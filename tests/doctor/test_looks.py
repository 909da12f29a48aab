"""What each part of the examination finds in records made by formula, and that it is silent on their clean twins."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sightline.doctor.diagnosis import Look
from sightline.doctor.ending import how_it_ended
from sightline.doctor.inside import look_at_attention, look_at_units
from sightline.doctor.layers import look_at_layers
from sightline.doctor.loss import look_at_loss
from sightline.doctor.record import Last, Record
from sightline.doctor.scale import look_at_scale
from sightline.doctor.towers import look_at_towers
from sightline.doctor.updates import look_at_updates
from sightline.report.values import Facts, Guard, History, LayerPoint, StepPoint, TrainPoint
from tests.train.tiny import stage

RECIPE = stage(steps=200, optimizer={"clip": None}, schedule={"warmup": 0.0})
TOWERS = ("vision", "connector", "language")
Value = Callable[[int], Any]


def record(
    loss: Value = lambda n: 0.2 + 3 * math.exp(-n / 30),
    norm: Value = lambda n: dict.fromkeys(TOWERS, 0.5),
    ratio: Value = lambda n: dict.fromkeys(TOWERS, 1e-3),
    layers: Sequence[LayerPoint] = (),
    last: int = 200,
    **facts: Any,
) -> Record:
    """A run of `last` steps whose every step was written down, every tenth of them logged."""
    noise = random.Random(0)
    losses = [loss(n) * math.exp(noise.gauss(0, 0.03)) for n in range(1, last + 1)]
    totals = [math.hypot(*norm(n).values()) * math.exp(noise.gauss(0, 0.1)) for n in range(1, last + 1)]
    steps = tuple(StepPoint("see", n, n, losses[n - 1], totals[n - 1]) for n in range(1, last + 1))
    scale, skipped = facts.pop("scale", lambda n: None), facts.pop("skipped", lambda n: None)
    points = tuple(
        TrainPoint(
            "see", n, n * 0.1, losses[n - 1], 64, dict.fromkeys(TOWERS, 1e-3), norm(n), totals[n - 1], ratio(n),
            facts.get("pictures", 80.0), 1e3, scale(n), {}, {}, n, 200, skipped(n),
        )
        for n in range(10, last + 1, 10)
    )  # fmt: skip
    seen = Facts(
        "tiny", facts.get("status", "finished"), "", "", "", {}, {}, {"precision": facts.get("precision", "fp32")},
        (), (), (), 0, {}, {},
    )  # fmt: skip
    history = History(points, last_step=last, steps=steps, layers=tuple(layers))
    place = Last("train", "see", last, last, 200)
    return Record(Path("runs/tiny"), seen, history, Guard(), RECIPE, last=place, error=facts.get("error", ""))


def layer(step: int, **kinds: dict[str, float | None]) -> LayerPoint:
    usual = {f"{tower}.{k}": 0.5 for tower in TOWERS for k in range(3)}
    empty: Any = {"weight_norm": dict.fromkeys(usual, 5.0), "update_ratio": dict.fromkeys(usual, 1e-3)}
    told: Any = {"grad_norm": usual, **empty, "attention_entropy": {}, "dead_units": {}}
    return LayerPoint("see", step, **{kind: values | kinds.get(kind, {}) for kind, values in told.items()})


def names(look: Look) -> list[tuple[str, str]]:
    return [(one.name, one.severity) for one in look.found]


def test_the_clean_twin_of_all() -> None:
    seen = record(layers=[layer(n) for n in (1, 50, 100, 150, 200)])
    looks = (how_it_ended, look_at_loss, look_at_towers, look_at_layers, look_at_updates, look_at_scale)
    assert [look(seen).found for look in looks] == [()] * len(looks)


def test_a_loss_that_is_no_number_and_where_it_began() -> None:
    def norm(n: int) -> dict[str, float]:
        return dict.fromkeys(TOWERS, 0.5 * (10.0 ** max(0, n - 145)))

    found = look_at_loss(record(lambda n: math.nan if n > 148 else 0.5, norm)).found[0]
    assert (found.name, found.severity, found.step) == ("loss-not-finite", "error", 149)
    assert found.ordered()[0].do == "stages.see.lr=0.0001"
    half = look_at_loss(record(lambda n: math.nan if n > 148 else 0.5, precision="fp16")).found[0]
    assert half.ordered()[0].do == "precision=bf16"


def test_a_loss_that_leaves_for_good() -> None:
    found = look_at_loss(record(lambda n: 0.3 + 3 * math.exp(-n / 20) + (2.5 if n > 120 else 0))).found[0]
    assert (found.name, found.step) == ("loss-explodes", 121)
    assert found.spots[0].first == found.spots[0].last == 121
    assert {"stages.see.lr=0.0001", "stages.see.optimizer.clip=1.0"} <= {cause.do for cause in found.causes}


def test_a_loss_that_is_thrown_up_and_comes_back() -> None:
    (one,) = look_at_loss(record(lambda n: 9.0 if 3 < n < 30 else 0.2 + 3 * math.exp(-n / 30))).found
    assert (one.name, one.severity, one.step) == ("loss-explodes", "warning", 4)


@pytest.mark.parametrize(("times", "severity"), [(1, "note"), (3, "warning")])
def test_jumps(times: int, severity: str) -> None:
    at = [60, 100, 140][:times]

    def norm(n: int) -> dict[str, float]:
        return dict.fromkeys(TOWERS, 4.0 if n in at else 0.5)

    def loss(n: int) -> float:
        return 4.0 if n in at else 0.5 + 2 * math.exp(-n / 20)

    found = look_at_loss(record(loss, norm)).found
    assert [(one.name, one.severity) for one in found] == [("loss-jumps", severity)]
    assert [spot.last for spot in found[0].spots] == at
    (hard,) = look_at_loss(record(loss)).found  # its gradient is as long as the others'
    assert hard.severity == "note" and "the rows are hard" in hard.says


def test_jumps_where_only_means_were_logged_name_the_window() -> None:
    seen = record(lambda n: 9.0 if n == 190 else 0.5, last=200)
    seen = replace(seen, history=replace(seen.history, steps=()))
    points = [replace(p, step=p.step * 2, own=(p.own or 0) * 2) for p in seen.history.train]
    seen = replace(seen, history=replace(seen.history, train=tuple(points)))
    (one,) = look_at_loss(replace(seen)).found
    assert (one.spots[0].first, one.spots[0].last) == (361, 380)


@pytest.mark.parametrize(
    ("norm", "says"),
    [
        (lambda n: {"vision": 0.0, "connector": 0.4, "language": 1.0}, "blocked boundary connector | vision"),
        (lambda n: {"vision": 0.0, "connector": 0.0, "language": 1.0}, "blocked boundary language | connector"),
        (
            lambda n: {"vision": 0.4 * (n < 150), "connector": 0.4, "language": 1.0},
            "blocked boundary connector | vision",
        ),
    ],
    ids=["vision", "both", "of late"],
)
def test_blocked_boundaries(norm: Value, says: str) -> None:
    (one,) = look_at_towers(record(norm=norm)).found
    assert one.severity == "error" and one.says.startswith(says)


def test_rows_without_pictures_are_the_cause_that_is_shown() -> None:
    (one,) = look_at_towers(record(norm=lambda n: {"vision": 0.0, "language": 1.0}, pictures=0.0)).found
    assert one.ordered()[0].likelihood == "shown" and "no row of this stage shows a picture" in one.ordered()[0].says


def test_a_gate_that_opens_blocks_nothing() -> None:
    assert look_at_towers(record(norm=lambda n: {"vision": 0.0 if n <= 10 else 0.1, "language": 1.0})).found == ()


def test_balance() -> None:
    apart = look_at_towers(record(norm=lambda n: {"vision": 1e-5, "language": 1.0}))
    assert names(apart) == [("towers-out-of-balance", "warning")]
    learned = look_at_towers(record(norm=lambda n: {"vision": 10.0 ** (-n / 40), "language": 1.0}))
    assert learned.found == ()  # it came of learning


def test_exploding_gradients() -> None:
    grown = record(lambda n: 2.0, lambda n: {"vision": 0.1 * 1.04**n, "language": 0.1 * 1.04**n})
    assert names(look_at_towers(grown)) == [("gradients-explode", "error")]


def test_vanishing_layers() -> None:
    faded = {"vision.0": 1e-5, "vision.1": 1e-3, "vision.2": 1.0}
    look = look_at_layers(record(layers=[layer(n, grad_norm=faded) for n in (1, 50, 100)]))
    assert (
        names(look) == [("gradients-vanish", "warning")] and "vision.0 has 1e-05 of what vision.2" in look.found[0].says
    )
    opening = [layer(n, grad_norm=faded | {"vision.0": n * 1e-6}) for n in (1, 50, 100)]
    assert look_at_layers(record(layers=opening)).found == ()


def test_replaced_layers() -> None:
    look = look_at_layers(record(layers=[layer(n, update_ratio={"connector.1": 0.9}) for n in (1, 50, 100)]))
    assert names(look) == [("layers-replaced", "warning")]
    once = [layer(1, update_ratio={"connector.1": 0.9}), layer(50), layer(100)]
    assert look_at_layers(record(layers=once)).found == ()


@pytest.mark.parametrize(("ratio", "name"), [(0.08, "updates-too-large"), (1e-8, "updates-too-small")])
def test_updates(ratio: float, name: str) -> None:
    look = look_at_updates(record(ratio=lambda n: {"vision": ratio, "language": 1e-3}))
    assert names(look) == [(name, "warning")]
    assert look.found[0].causes[0].do == f"stages.see.lr={float(f'{1e-3 * 1e-3 / ratio:.0e}'):g}"


def test_what_is_wrong_is_told_without_a_recipe_too() -> None:
    """Every kind of remedy that names the recipe's values, where it cannot be read."""
    looks = (look_at_loss, look_at_towers, look_at_layers, look_at_updates, look_at_attention, look_at_units)
    told = replace(layer(1), attention_entropy={"vision.0": 0.9}, dead_units={"vision.0": 0.9})
    points = [told, *(layer(n, update_ratio={"vision.1": 0.9}, grad_norm={"vision.2": None}) for n in (50, 100, 150))]
    points = [
        points[0],
        *(replace(p, attention_entropy={"vision.0": 0.0}, dead_units={"vision.0": 0.9}) for p in points[1:]),
    ]
    wild = record(lambda n: 0.5 if n < 100 else 50.0, ratio=lambda n: {"vision": 0.5, "language": 0.0}, layers=points)
    wild = replace(wild, recipe=None)
    found = [one for look in looks for one in look(wild).found]
    assert len(found) >= 6 and all(cause.do for one in found for cause in one.ordered())
    assert all("None" not in cause.do for one in found for cause in one.causes)


def test_a_tower_that_no_step_moves() -> None:
    still = look_at_updates(record(ratio=lambda n: {"vision": 0.0, "language": 1e-3}))
    assert (
        names(still) == [("updates-too-small", "warning")] and still.found[0].causes[0].do == "a higher stages.see.lr"
    )
    skipped = look_at_updates(record(ratio=lambda n: {"vision": 0.0}, skipped=lambda n: 10))
    assert skipped.found[0].ordered()[0].likelihood == "shown"


def test_attention_that_collapses() -> None:
    def points(*spreads: float) -> list[LayerPoint]:
        return [replace(layer(50 * k + 1), attention_entropy={"language.0": s}) for k, s in enumerate(spreads)]

    look = look_at_attention(record(layers=points(0.9, 0.5, 0.01, 0.005)))
    assert names(look) == [("attention-collapses", "warning")]
    for clean in ((0.9, 0.5, 0.3, 0.2), (0.01, 0.01, 0.01, 0.01), (0.9, 0.5, 0.01, 0.4)):
        assert look_at_attention(record(layers=points(*clean))).found == ()


def test_dead_units() -> None:
    def points(*shares: float) -> list[LayerPoint]:
        return [replace(layer(50 * k + 1), dead_units={"connector": s}) for k, s in enumerate(shares)]

    late, early = (look_at_units(record(layers=points(*s))) for s in ((0.0, 0.6, 0.7), (0.8, 0.8, 0.8)))
    assert names(late) == names(early) == [("dead-units", "warning")]
    assert "too large" in late.found[0].ordered()[0].says and "from the start" in early.found[0].ordered()[0].says
    assert look_at_units(record(layers=points(0.0, 0.6, 0.1))).found == ()


def test_the_loss_scale() -> None:
    def falling(n: int) -> float:
        return 65536.0 / 2 ** (n // 10)

    look = look_at_scale(record(scale=falling, skipped=lambda n: 1, precision="fp16"))
    assert names(look) == [("loss-scale-collapses", "error")] and look.found[0].ordered()[0].do == "precision=bf16"
    often = look_at_scale(record(scale=lambda n: 8192.0, skipped=lambda n: 2, precision="fp16"))
    assert names(often) == [("steps-overflow", "warning")]
    healthy = look_at_scale(record(scale=lambda n: 65536.0 if n < 60 else 32768.0, skipped=lambda n: int(n == 60)))
    assert healthy.found == () and "1\N{NO-BREAK SPACE}overflow" in healthy.says
    assert look_at_scale(record(precision="fp16")).recorded is False


@pytest.mark.parametrize(
    ("error", "do"),
    [
        ("CUDA out of memory", "stages.see.micro_batch=2, or stages.see.gradient_checkpointing=true"),
        ("[Errno 28] No space left on device", "make room, or keep fewer saves: checkpoints.keep=1"),
        ("DataLoader worker (pid 77) is killed", "workers=0, or give the container more shared memory"),
        ("rows.jsonl row 7: no such image\n  fix: mend the row", "mend the row"),
    ],
)
def test_crashes(error: str, do: str) -> None:
    (one,) = how_it_ended(record(status="failed", error=error)).found
    assert one.ordered()[0].do == do and one.ordered()[-1].do.startswith("sightline train --resume runs/tiny")


def test_a_run_of_several_processes_is_resumed_by_as_many() -> None:
    seen = record(status="interrupted")
    seen = replace(seen, facts=replace(seen.facts, settings={"processes": "4"}))
    (one,) = how_it_ended(seen).found
    assert one.severity == "note"
    assert one.causes[0].do.startswith("torchrun --nproc-per-node 4 -m sightline train --resume runs/tiny")
