"""Formats of numbers in real runs: skipped steps are counted, flags are put back, and the guard sees P2 to P4."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.errors import UserError
from sightline.recipe.schema import Recipe
from sightline.train.clip import Norms, clip_gradients
from sightline.train.measure import gradient_norms
from sightline.train.parallel.layout import Layout
from sightline.train.precision import Precision, pick_precision
from sightline.train.run import resume, train
from tests.train.parallel.runs import losses, recipe, table

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `table`."""
    return table(tmp_path_factory.mktemp("rows"))


def run(rows: Path, steps: int = 6, guard: bool = False, **changes: Any) -> Recipe:
    stage = {"steps": steps, "batch": 4, "micro_batch": 4, "validate_every": None} | changes.pop("stage", {})
    return recipe(rows, stage=stage, guard={"on": guard}, **changes)


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == "train"]


def found(folder: Path) -> dict[str, str]:
    """The guard's verdicts by code."""
    lines = (folder / "findings.jsonl").read_text().splitlines()
    return {line["code"]: line["kind"] for line in map(json.loads, lines)}


# --- fp16 ---------------------------------------------------------------------------------------------------------


def test_skipped_steps_are_counted_and_change_nothing(rows: Path, tmp_path: Path) -> None:
    numbers = {"initial_scale": 2.0**30, "growth_interval": 2}
    folder = train(run(rows, 24, precision="fp16", numbers=numbers), tmp_path / "run")
    seen = events(folder)
    skipped = [event["skipped"] for event in seen]
    scales = [event["loss_scale"] for event in seen]
    assert skipped[0] == 1 and set(skipped) == {0, 1}
    for before, event, scale in zip([2.0**30, *scales], seen, scales, strict=False):
        assert scale == (before / 2 if event["skipped"] else scale)
        assert (event["update_ratio"]["language"] == 0.0) == bool(event["skipped"])
        assert math.isfinite(event["grad_norm_total"]) != bool(event["skipped"])
        assert event["loss"] == pytest.approx(3, abs=2)
    assert f"{sum(skipped)} steps were skipped for it" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_the_count_of_skipped_steps_goes_over_a_save(rows: Path, tmp_path: Path) -> None:
    numbers = {"initial_scale": 2.0**127}
    made = run(rows, 20, precision="fp16", numbers=numbers, log_every=10, checkpoints={"every": 5})
    whole = events(train(made, tmp_path / "whole"))
    assert [event["skipped"] for event in whole] == [10, 10]
    folder = tmp_path / "stopped"
    train(made, folder)
    (folder / "checkpoints" / "latest").unlink()
    (folder / "checkpoints" / "latest").symlink_to("see-15")
    resume(folder)
    assert [event["skipped"] for event in events(folder)] == [10, 10] and losses(folder) == losses(tmp_path / "whole")


def test_norms_of_gradients_that_overflowed_say_in_which_tower() -> None:
    fine, lost = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    fine.grad, lost.grad = torch.ones(3), torch.tensor([1.0, math.inf, 1.0])
    optimizer = torch.optim.SGD([{"params": [fine], "tower": "vision"}, {"params": [lost], "tower": "language"}])
    total = float(clip_gradients(optimizer, 1.0).total)
    told = gradient_norms({"vision": [fine], "language": [lost]}, total, 1.0)
    assert math.isnan(told["vision"]) and told["language"] == math.inf


def test_keys_that_nothing_reads(rows: Path) -> None:
    for changes, said in (
        ({"precision": "bf16", "numbers": {"initial_scale": 4.0}}, "loss scale of fp16"),
        ({"precision": "fp32", "numbers": {"weights": "bf16"}}, "goes with precision bf16"),
        ({"stage": {"optimizer": {"rounding": "kahan"}}}, "'optimizer.rounding' is of bf16 weights"),
        ({"precision": "bf16", "numbers": {"weights": "bf16"}, "stage": {"ema": 0.9}}, "averages bf16 weights"),
        ({"precision": "bf16", "numbers": {"weights": "bf16"}, "parallel": "zero2"}, "engine's own"),
    ):
        with pytest.raises(UserError, match=said):
            run(rows, **changes)


# --- other formats ------------------------------------------------------------------------------------------------


def test_what_only_gpus_have() -> None:
    with pytest.raises(UserError, match="tf32 is how GPUs"):
        pick_precision("tf32", CPU)
    with pytest.raises(UserError, match=r"compute capability 8\.9"):
        pick_precision("fp8", CPU)


@pytest.mark.parametrize(("kind", "inside"), [("fp32", "highest"), ("tf32", "high")])
def test_flags_of_the_process_are_set_and_put_back(kind: Any, inside: str) -> None:
    precision = Precision("fp32", CPU, torch.amp.GradScaler("cpu", enabled=False), kind)
    torch.set_float32_matmul_precision("medium")
    try:
        with pytest.raises(ZeroDivisionError), precision.at_work():
            assert torch.get_float32_matmul_precision() == inside
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.slow
def test_weights_of_16_bits_train_and_are_gone_on_with(rows: Path, tmp_path: Path) -> None:
    half = {"precision": "bf16", "numbers": {"weights": "bf16"}}
    made = run(rows, 8, **half, checkpoints={"every": 4})
    whole = train(made, tmp_path / "whole")
    stopped = train(made, tmp_path / "stopped")
    (stopped / "checkpoints" / "latest").unlink()
    (stopped / "checkpoints" / "latest").symlink_to("see-4")
    resume(stopped)
    assert losses(stopped) == losses(whole)
    mixed = losses(train(run(rows, 8, precision="bf16"), tmp_path / "mixed"))
    assert losses(whole) == pytest.approx(mixed, rel=0.02)


def test_fp8_without_torchao(monkeypatch: pytest.MonkeyPatch, rows: Path, tmp_path: Path) -> None:
    import sightline.train.run as running

    made = Precision("bf16", CPU, torch.amp.GradScaler("cpu", enabled=False), "fp8")
    monkeypatch.setattr(running, "pick_precision", lambda *_: made)
    monkeypatch.setitem(__import__("sys").modules, "torchao.float8", None)
    with pytest.raises(UserError, match=r"'torchao', which is not installed(.|\n)*sightline\[fp8\]"):
        train(run(rows, precision="fp8"), tmp_path / "run")


# --- what the guard sees of planted mistakes, in the trainer itself ---------------------------------------------


@pytest.mark.slow
def test_a_loss_scale_that_collapses(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(rows, 30, guard=True, precision="fp16", numbers={"initial_scale": 256.0})
    assert found(train(made, tmp_path / "clean"))["P2"] != "finding"
    backward = Precision.backward
    monkeypatch.setattr(Precision, "backward", lambda self, loss: backward(self, loss * math.inf))
    assert found(train(made, tmp_path / "faulty"))["P2"] == "finding"


@pytest.mark.slow
def test_gradients_clipped_under_the_loss_scale(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(rows, 30, guard=True, precision="fp16", numbers={"initial_scale": 1024.0})
    assert found(train(made, tmp_path / "clean"))["P3"] != "finding"

    def update(self: Layout, optimizer: torch.optim.Optimizer, precision: Precision, clip: Any) -> Norms:
        norms = clip_gradients(optimizer, clip)
        precision.scaler.unscale_(optimizer)
        precision.scaler.step(optimizer)
        precision.scaler.update()
        return norms

    monkeypatch.setattr(Layout, "update", update)
    assert found(train(made, tmp_path / "faulty"))["P3"] == "finding"


@pytest.mark.slow
@pytest.mark.parametrize(("rounding", "kind"), [("nearest", "finding"), ("stochastic", "passed"), ("kahan", "passed")])
def test_updates_that_bf16_weights_lose(rows: Path, tmp_path: Path, rounding: str, kind: str) -> None:
    stage = {"lr": 2e-5, "optimizer": {"rounding": rounding}, "schedule": {"kind": "constant", "warmup": 0.0}}
    half = {"precision": "bf16", "numbers": {"weights": "bf16"}}
    assert found(train(run(rows, 40, guard=True, stage=stage, **half), tmp_path / "run"))["P4"] == kind
