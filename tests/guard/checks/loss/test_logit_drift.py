"""L6 on bare evidence: losses and log Z of runs that diverge, and of many that only look wild."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.loss.logit_drift import find
from sightline.guard.evidence import History, LossSeen, ParameterSeen, Setup, StepSeen

PARAMETER = ParameterSeen("w", "model", 1, "float32", True, True, 0.1, 1.0, 1.0, 1e-3, True)
SETUP = Setup(towers={}, embedding_rows=1000)  # ln V = 6.9
IDS = torch.ones(1, 4, dtype=torch.long)


def run(losses: Sequence[float], log_z: Sequence[float] = (), dtype: str = "bfloat16", classes: int = 1000) -> History:
    """Steps with these losses. `log_z`: of each step; else zero."""
    sizes = log_z or [0.0] * len(losses)
    return History(
        tuple(
            StepSeen(
                n,
                loss=loss,
                micro=(LossSeen(n, 0, 9, 1.0, 1.0, 0.0, log_z=z, largest_logit=z, classes=classes, dtype=dtype),),
                parameters=(PARAMETER,),
            )
            for n, (loss, z) in enumerate(zip(losses, sizes, strict=True), start=1)
        )
    )


def noisy(level: float, count: int, scatter: float = 0.2) -> list[float]:
    draw = random.Random(count)
    return [level * (1 + scatter * draw.uniform(-1, 1)) for _ in range(count)]


FALLING = [6.9 * 0.97**n for n in range(60)]


@pytest.mark.parametrize(
    "losses",
    [
        FALLING,
        noisy(2.0, 80, 0.6),
        [*FALLING, 9.0, *FALLING[-8:]],
        FALLING + [9.0] * 4 + FALLING[-8:],
        noisy(2.0, 20) + noisy(4.0, 20),
        noisy(6.9, 40, 0.05),
        [*FALLING, 20.0, 15.0, 13.0, 12.0, 10.0, 9.5, 9.2, 9.0],
        [700.0] * 4 + [2100.0] * 30,
        [0.02] * 30 + [0.9] * 30,
    ],
    ids=["falls", "wobbles", "a spike", "longer", "harder data", "learns nothing", "on its way back", "a sum", "tiny"],
)
def test_silent(losses: list[float]) -> None:
    assert find(run(losses), SETUP) is None


@pytest.mark.parametrize(
    ("losses", "severity", "says"),
    [
        (FALLING + [9.5] * 8, "error", "guessing"),
        ([6.9] * 4 + [10.0] * 8, "error", "guessing"),
        (noisy(2.0, 20, 0.1) + [6.0] * 8, "warning", "twice its start"),
        ([6.9] * 4 + [400.0 * 0.9**n for n in range(12)], "error", "guessing"),
    ],
    ids=["worse than guessing", "from the start", "a trained model forgets", "falling from far"],
)
def test_diverged(losses: list[float], severity: str, says: str) -> None:
    verdict = find(run(losses), SETUP)
    assert isinstance(verdict, Finding) and verdict.severity == severity and says in verdict.message


def test_the_loss_is_read_off_the_gradient_where_the_host_returns_none() -> None:
    micro = LossSeen(1, 0, 9, 1.0, 1.0, 0.0, log_z=0.0, loss=12.0, classes=1000)
    early = LossSeen(1, 0, 9, 1.0, 1.0, 0.0, log_z=0.0, loss=6.9, classes=1000)
    steps = [StepSeen(n, micro=(early if n < 5 else micro,), parameters=(PARAMETER,)) for n in range(1, 14)]
    assert isinstance(find(History(tuple(steps)), SETUP), Finding)


def test_drift() -> None:
    flat = [3.0] * 24
    growing = [4.0 * n for n in range(1, 25)]
    verdict = find(run(flat, growing), SETUP)
    assert isinstance(verdict, Finding) and "log Z" in verdict.message and verdict.severity == "warning"
    assert find(run(flat, growing, dtype="float32"), SETUP) is None  # 96 is no rounding there
    assert find(run(flat, [80.0 + n for n in range(24)]), SETUP) is None  # it began there
    assert find(run(flat, [min(40.0, 4.0 * n) for n in range(24)]), SETUP) is None
    assert isinstance(find(run(flat, [-z for z in growing]), SETUP), Finding)


def test_spikes_that_heal_are_a_note() -> None:
    calm = noisy(3.0, 30, 0.02)
    verdict = find(run(([*calm, 5.0, 4.8, 4.5]) * 3 + calm), SETUP)
    assert isinstance(verdict, Finding) and verdict.severity == "note"
    assert find(run(([*calm, 5.0]) * 3 + calm), SETUP) is None  # one wild batch each


@pytest.mark.parametrize(
    "history",
    [run(FALLING[:8]), run(FALLING, classes=50), History(tuple(StepSeen(n, loss=2.0) for n in range(1, 40)))],
    ids=["too short", "scores of something else", "nothing measured"],
)
def test_cannot_tell(history: History) -> None:
    assert isinstance(find(history, SETUP), CannotTell)
