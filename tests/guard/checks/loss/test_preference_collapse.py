"""L9 on bare evidence: what margins and log probabilities did, and where the reference was."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.loss.preference_collapse import find
from sightline.guard.evidence import BatchSeen, DataSeen, MetricsHistory, MetricsSeen, ReferenceSeen


def logged(**series: Sequence[float]) -> MetricsHistory:
    """Series by TRL's names, ``__`` standing for the slash."""
    length = len(next(iter(series.values())))
    return MetricsHistory(
        tuple(MetricsSeen(n, {name.replace("__", "/"): s[n] for name, s in series.items()}) for n in range(length))
    )


def trend(start: float, end: float, count: int = 60, scatter: float = 0.02) -> list[float]:
    draw = random.Random(1)
    width = scatter * (abs(start) + abs(end))
    return [start + (end - start) * n / (count - 1) + width * draw.uniform(-1, 1) for n in range(count)]


GROWS = trend(0.0, 0.4)
HALF = trend(0.5, 0.5)


@pytest.mark.parametrize(
    "metrics",
    [
        logged(rewards__margins=GROWS, rewards__accuracies=trend(0.5, 0.8)),
        logged(rewards__margins=[0.0] + [1e-5] * 20),
        logged(rewards__margins=[0.0] * 6),
        logged(rewards__margins=trend(0.0, -0.01, 20), rewards__accuracies=trend(0.5, 0.3, 20)),
        logged(rewards__margins=trend(0.1, -0.1), rewards__accuracies=HALF),
        logged(rewards__margins=GROWS, logps__chosen=trend(-80, -120), logps__rejected=trend(-80, -180)),
        logged(rewards__margins=GROWS, logps__chosen=trend(-80, -90), logps__rejected=trend(-80, -90)),
    ],
    ids=["learns", "slowly", "too early", "too short", "at chance", "falls apart by design", "falls a little"],
)
def test_silent(metrics: MetricsHistory) -> None:
    assert find(metrics) is None


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        (logged(rewards__margins=[0.0] * 12), "margin is zero"),
        (logged(my_margin=[0.0] * 12), "margin is zero"),
        (
            logged(rewards__margins=trend(0.0, -0.8), rewards__accuracies=trend(0.5, 0.1)),
            "rejected answer is preferred",
        ),
        (
            logged(rewards__margins=GROWS, logps__chosen=trend(-80, -240), logps__rejected=trend(-80, -244)),
            "both answers lose",
        ),
    ],
    ids=["nothing", "by another name", "swapped", "both fall"],
)
def test_found(metrics: MetricsHistory, says: str) -> None:
    verdict = find(metrics)
    assert isinstance(verdict, Finding) and says in verdict.message


@pytest.mark.parametrize(
    ("seen", "found"),
    [
        (ReferenceSeen(1, shared=0, since=0), None),
        (ReferenceSeen(64, shared=0, since=0, difference=0.0), None),
        (ReferenceSeen(64, shared=0, since=0, difference=2e-3, noise=1e-3), None),
        (ReferenceSeen(64, shared=0, since=0, difference=0.4, synced=True), None),
        (ReferenceSeen(64, shared=0, since=0, difference=0.4), "not where it was"),
        (ReferenceSeen(1, shared=90, since=0), "shares 90"),
    ],
    ids=["first look", "stays", "noise", "on purpose", "moves", "is the policy"],
)
def test_reference(seen: ReferenceSeen, found: str | None) -> None:
    verdict = find(logged(rewards__margins=GROWS), seen)
    assert verdict is None if found is None else isinstance(verdict, Finding) and found in verdict.message


@pytest.mark.parametrize(
    ("metrics", "reference"),
    [(None, None), (logged(loss=GROWS), None), (None, ReferenceSeen(1, 0, 0)), (logged(loss=GROWS), None)],
)
def test_cannot_tell(metrics: MetricsHistory | None, reference: ReferenceSeen | None) -> None:
    assert isinstance(find(metrics, reference), CannotTell)


PAIRS = DataSeen(0, ("prompt", "chosen", "rejected"), objective="preference")


def halves(rejected: int, mask: bool = True) -> BatchSeen:
    """Four pairs, chosen answers first; the rejected ones end in `rejected`, the chosen in 5."""
    ids = torch.tensor([[7, 8, 9, 5]] * 4 + [[7, 8, 9, rejected]] * 4)
    seen = torch.ones_like(ids, dtype=torch.bool)
    seen[4:, -1] = mask
    return BatchSeen("train", 0, input_ids=ids, attention_mask=seen)


def test_answers_that_are_one_after_the_cut() -> None:
    found = find(batch=halves(5), data=PAIRS)
    assert isinstance(found, Finding) and found.severity == "error" and "token for token the same" in found.message


@pytest.mark.parametrize("batch", [halves(6), halves(5, mask=False)], ids=["other words", "a longer answer"])
def test_answers_that_differ(batch: BatchSeen) -> None:
    assert not isinstance(find(batch=batch, data=PAIRS), Finding)


def test_rows_that_come_twice_are_no_pairs_elsewhere() -> None:
    assert not isinstance(find(batch=halves(5), data=DataSeen(0, ("text",), objective="sft")), Finding)
