"""P3 on bare evidence: one number in every step, and which number."""

from __future__ import annotations

import pytest

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.checks.precision.clip_before_unscale import find
from sightline.guard.evidence import ScaledStep, ScalerSeen

S = 65536.0


def judged(*steps: tuple[float, float, float, float | None]) -> Verdict:
    return find(ScalerSeen(9, (S,), tuple(ScaledStep(n, *step) for n, step in enumerate(steps, 1)), 9, 9))


def test_one_norm_or_value_under_the_scale() -> None:
    norm = judged(*[(S, 1 / S, 0.1 * n / S, 1e-4) for n in range(1, 6)])
    assert isinstance(norm, Finding) and norm.step == 5 and "clip_grad_norm_" in norm.fix
    modest = judged(*[(4096.0, 1 / 4096, 0.1 * n / 4096, 1e-3) for n in range(1, 6)])
    assert isinstance(modest, Finding)
    value = judged(*[(S / n, n, 0.5 * n / S, 0.1) for n in (1.0, 2.0, 2.0, 4.0)])
    assert isinstance(value, Finding) and "clip_grad_value_" in value.fix


def clamped(level: int, *, limit: float = 0.05) -> Verdict:
    steps = [ScaledStep(n, S, n / S, limit / S, 1.0, level) for n in range(1, 6)]
    return find(ScalerSeen(9, (S,), tuple(steps), 9, 9))


def test_a_hook_clamps_before_anybody_saw_more() -> None:
    found = clamped(40)
    assert isinstance(found, Finding) and "hook" in found.fix and "0.05" in found.message
    assert clamped(1) is None  # one largest value that happens to stay the same
    assert clamped(40, limit=0.05 * S) is None  # to a limit for unscaled gradients


@pytest.mark.parametrize(
    "steps",
    [
        [(S, 1.0, 0.1 * n, 0.3) for n in range(1, 6)],
        [(S, 1 / S, 0.1 * n / S, 1.0) for n in range(1, 6)],
        [(S, (1 + 0.01 * n) / S, n / S, 1e-4) for n in range(1, 6)],
        [(S, 100 / S, n / S, 1e-4) for n in range(1, 6)],
        [(1024.0, 5 / 1024, 0.1 * n / 1024, 0.3) for n in range(1, 6)],
    ],
    ids=["clipped after", "nothing was cut", "norms vary", "no limit in use", "clipped after to a small limit"],
)
def test_silent(steps: list[tuple[float, float, float, float | None]]) -> None:
    assert judged(*steps) is None


@pytest.mark.parametrize(
    "step", [(128.0, 1 / 128, 1e-5, 1e-4), (S, float("inf"), 1.0, 0.1), (S, 0.0, 0.0, 0.1), (S, 1 / S, 1e-6, None)]
)
def test_what_cannot_be_told(step: tuple[float, float, float, float | None]) -> None:
    assert isinstance(judged(*[step] * 6), CannotTell)
    assert isinstance(judged(*[(S, 1 / S, 1e-6, 1e-4)] * 3), CannotTell)
