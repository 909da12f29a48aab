"""L5 on bare evidence: rows against the reach of positions, and the reach against the config."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.model.context_beyond_rope import find
from sightline.guard.evidence import BatchSeen, ContextSeen, History, Setup, StepSeen

PLAIN = ContextSeen(0, trained=100, running=(1.0, 1.0), reloaded=(1.0, 1.0))
LINEAR = ContextSeen(0, trained=100, kind="linear", factor=4.0, running=(4.0, 4.0), reloaded=(4.0, 4.0))
FAR = ContextSeen(0, trained=100, kind="linear", factor=8.0, running=(8.0, 8.0), reloaded=(8.0, 8.0))
YARN = ContextSeen(0, trained=400, original=100, kind="yarn", factor=8.0, running=(1.0, 8.0), reloaded=(1.0, 8.0))
DYNAMIC = ContextSeen(0, trained=100, kind="dynamic", factor=2.0, running=(1.0, 1.0), reloaded=(1.0, 1.0))


def row(length: int, **more: torch.Tensor) -> BatchSeen:
    return BatchSeen("train", 0, input_ids=torch.zeros(2, length, dtype=torch.long), **more)


@pytest.mark.parametrize(
    ("batch", "context"),
    [
        (row(100), PLAIN),
        (row(50), replace(PLAIN, longest=100)),
        (row(400), LINEAR),
        (row(100), FAR),
        (row(400), replace(LINEAR, source=100, trained=400)),
        (row(800), YARN),
        (row(900), DYNAMIC),
        (row(300, position_ids=torch.arange(300)[None] % 100), PLAIN),
        (row(300, attention_mask=(torch.arange(300) < 90).expand(2, -1)), PLAIN),
        (row(90), ContextSeen(0, trained=100, running=(1.0, 1.004), reloaded=(1.0, 1.0))),
    ],
    ids=[
        "as trained",
        "with features",
        "stretched",
        "trained so",
        "a shorter model's weights, stretched",
        "yarn",
        "dynamic",
        "packed",
        "padded",
        "cast to bf16",
    ],
)
def test_silent(batch: BatchSeen, context: ContextSeen) -> None:
    assert find(batch, context) is None


@pytest.mark.parametrize(
    ("batch", "context", "says"),
    [
        (row(101), PLAIN, "reach 100"),
        (row(401), LINEAR, "reach 400"),
        (row(900), YARN, "reach 800"),
        (row(300), FAR, "linearly by 8"),
        (row(100), replace(FAR, source=12), "linearly by 8"),
        (row(50, position_ids=torch.arange(200, 250)[None]), PLAIN, "250 tokens"),
        (row(50), replace(PLAIN, longest=110), "110 tokens"),
        (row(50), ContextSeen(0, 100, kind="linear", factor=4.0, running=(1.0, 1.0), reloaded=(4.0, 4.0)), "config"),
        (row(50), ContextSeen(0, 100, running=(4.0, 4.0), reloaded=(1.0, 1.0)), "another model"),
    ],
    ids=[
        "longer",
        "longer than stretched",
        "than yarn",
        "linear 8",
        "linear 8 of a shorter model's weights",
        "by positions",
        "with features",
        "not running",
        "not saved",
    ],
)
def test_found(batch: BatchSeen, context: ContextSeen, says: str) -> None:
    verdict = find(batch, context)
    assert isinstance(verdict, Finding) and verdict.severity == "warning" and says in verdict.message


def test_a_trained_model_makes_it_an_error() -> None:
    history, setup = History((StepSeen(1, loss=2.0),)), Setup(towers={}, embedding_rows=32000)
    verdict = find(row(200), PLAIN, history, setup)
    assert isinstance(verdict, Finding) and verdict.severity == "error"


def test_cannot_tell() -> None:
    assert isinstance(find(BatchSeen("train", 0), PLAIN), CannotTell)
    assert isinstance(find(row(500, group_ids=torch.zeros(2, 500)), PLAIN), CannotTell)
