"""X2's borders: widths, sizes, a projector initialised anew, and a language model that learns beside a fresh one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.model.unaligned_projector import find
from sightline.guard.evidence import BatchSeen, History, ParameterSeen, Setup, SignalsSeen, StepSeen, TowerSetup

ALL = TowerSetup("language", parameters=1000, trainable=1000, optimized=1000, learning_rates=(1e-3,))
SETUP = Setup(towers={"connector": replace(ALL, name="connector"), "language": ALL}, embedding_rows=1000)
SIGNALS = SignalsSeen(0, 1.0, 64, 0.02, 64)
BATCH = BatchSeen("train", 0, torch.tensor([[9, 9, 1], [9, 9, 2]]), image_token_id=9, image_spans=2, image_features=4)


def test_width() -> None:
    narrow = replace(SIGNALS, connector_width=32)
    assert find(SETUP, narrow, BATCH).severity == "error"
    assert find(SETUP, narrow, replace(BATCH, image_features=2)) is None  # one placeholder an image: cross-attention
    assert find(SETUP, narrow) is None and find(SETUP, replace(narrow, step=1), BATCH) is None
    assert find(SETUP, SIGNALS, BATCH) is None


@pytest.mark.parametrize(
    ("step", "ours", "wrong"), [(0, 19.0, False), (0, 21.0, True), (0, 0.0, False), (63, 1e-6, False), (64, 1e-6, True)]
)
def test_size(step: int, ours: float, wrong: bool) -> None:
    assert isinstance(find(SETUP, replace(SIGNALS, step=step, connector_rms=ours)), Finding) == wrong


def step(
    number: int, loss: float, moves: float = 0.05, spread: float = (3 * 64) ** -0.5, own: float = 0.01
) -> StepSeen:
    def seen(name: str, tower: str, numel: int, rms: float, update: float) -> ParameterSeen:
        norm = rms * numel**0.5
        return ParameterSeen(name, tower, numel, "float32", True, True, 1e-3, 0.1, norm, update * norm, True)

    parameters = (
        seen("p.weight", "connector", 64 * 256, spread, own),
        seen("p.bias", "connector", 256, spread, own),
        seen("l.weight", "language", 10_000, 0.05, moves),
    )
    return StepSeen(number, loss=loss, parameters=parameters)


BROKEN = [2.0, 5.0, 4.5, 4.4, 4.2, 4.1]


def run(losses: list[float], **more: float) -> History:
    return History(tuple(step(n + 1, loss, **more) for n, loss in enumerate(losses)))


def test_a_hot_language_model_beside_a_fresh_projector() -> None:
    assert "projector alone first" in find(SETUP, SIGNALS, None, run(BROKEN)).fix


@pytest.mark.parametrize(
    "history",
    [
        run(BROKEN[:5]),  # not for long enough
        run([2.0, 2.1, 2.0, 1.9, 2.2, 2.0]),  # learning together does no harm
        run([6.9, 9.0, 9.0, 9.0, 9.0, 9.0]),  # from scratch: ln 1000 is 6.9
        run(BROKEN, moves=0.005),  # at a rate that does not break it
        run(BROKEN, spread=0.2),  # a projector that was trained
    ],
    ids=["short", "harmless", "scratch", "gentle", "trained"],
)
def test_what_is_no_such_fault(history: History) -> None:
    assert find(SETUP, SIGNALS, None, history) is None


def test_lora_is_no_full_heat() -> None:
    towers = {**SETUP.towers, "language": replace(ALL, trainable=10, adapters=10)}
    assert find(replace(SETUP, towers=towers), SIGNALS, None, run(BROKEN)) is None


def test_initialised_anew() -> None:
    trained, anew = step(7, 2.0, spread=0.2), step(8, 2.0)
    assert "anew" in find(SETUP, SIGNALS, None, History((trained, anew))).message
    assert find(SETUP, SIGNALS, None, History((anew, trained))) is None  # weights loaded: not an untrained look
    assert find(SETUP, SIGNALS, None, History((trained, step(8, 2.0, own=2.0)))) is None  # its own step explains it
    assert find(SETUP, SIGNALS, None, History((trained, StepSeen(8), anew))) is None  # unmeasured in between


def test_no_connector() -> None:
    assert isinstance(find(Setup(towers={"model": ALL}), SIGNALS), CannotTell)
    assert isinstance(find(SETUP), CannotTell)
