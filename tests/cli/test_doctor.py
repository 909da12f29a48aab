"""`sightline doctor` on runs: what it prints, as data, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.fake_run import NO_RESULT, failed, make_run, metrics


def test_a_run_that_is_well(call, tmp_path: Path) -> None:
    done = call("doctor", make_run(tmp_path / "run"), "--strict")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1].startswith("verdict: nothing wrong (")
    assert "gradients, layer by layer: not recorded: set log_layers=50" in done.stdout
    assert "gradient norm by tower and step, as a power of ten" in done.stdout
    assert "\x1b" not in done.output


def test_a_crashed_run(call, tmp_path: Path) -> None:
    run = failed(tmp_path / "run")
    done = call("doctor", run)
    assert done.exit_code == 0 and "verdict: one thing is wrong" in done.stdout
    assert "1. error: the run crashed in stage align" in done.stdout
    assert "a) shown: out of memory" in done.stdout and f"sightline train --resume {run}" in done.stdout
    assert "note: metrics.jsonl ends in a half-written line" in done.stdout
    assert call("doctor", run, "--strict").exit_code == 3


def test_as_data(call, tmp_path: Path) -> None:
    done = call("doctor", failed(tmp_path / "run"), "--json")
    told = json.loads(done.stdout)
    assert told["verdict"] == "one thing is wrong" and told["status"] == "failed"
    (found,) = told["found"]
    assert (found["name"], found["severity"], found["causes"][0]["likelihood"]) == ("crashed", "error", "shown")
    assert told["gradient_norms"]["rows"] == ["vision", "connector", "language"]
    assert [look["about"] for look in told["looks"]][:2] == ["how it ended", "loss"]


@pytest.mark.parametrize("stored", [None, []], ids=["no metrics", "empty metrics"])
def test_nothing_was_logged(call, tmp_path: Path, stored: list | None) -> None:
    done = call("doctor", make_run(tmp_path / "run", metrics=stored, **NO_RESULT))
    assert done.exit_code == 2 and done.stderr.startswith("error: ")
    assert "so there is nothing to examine" in done.stderr


def test_a_loss_that_rises_is_told_with_the_step(call, tmp_path: Path) -> None:
    lines = metrics()
    for line in lines:
        if line["event"] == "train" and line["stage"] == "instruct" and line["step"] > 300:
            line["loss"] += 6
    done = call("doctor", make_run(tmp_path / "run", metrics=lines))
    assert "1. error: the loss of stage instruct leaves" in done.stdout and "at step 303" in done.stdout
    assert "stages.instruct.lr" in done.stdout


def test_numbers_that_are_none_are_json_still(call, tmp_path: Path) -> None:
    lines = metrics()
    last = [line for line in lines if line["event"] == "train"][-1]
    last["loss"] = last["grad_norm"]["language"] = float("nan")
    done = call("doctor", make_run(tmp_path / "run", metrics=lines), "--json")

    def refuse(name: str) -> None:
        raise ValueError(name)

    (found,) = json.loads(done.stdout, parse_constant=refuse)["found"]
    assert found["name"] == "loss-not-finite"
