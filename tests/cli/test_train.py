"""`sightline train`: a whole run, its progress, and going on with it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def steps(run: Path) -> list[int]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["global_step"] for line in lines if line["event"] == "train"]


def test_train_then_ask(call, recipe_file: Path) -> None:
    run = recipe_file.parent / "out"
    done = call("train", recipe_file, "stages.see.steps=3", "log_every=1", "--out", run)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"run: {run}\naccuracy: ")
    assert "report: file://" in done.stdout
    assert [line.split("  ")[0] for line in done.stderr.splitlines() if line.startswith("see ")] == [
        "see 1/3",
        "see 2/3",
        "see 3/3",
    ]
    assert "\x1b" not in done.output
    assert steps(run) == [1, 2, 3]
    asked = call("ask", run, recipe_file.parent / "red.png", "is it red ?")
    assert asked.exit_code == 0, asked.output


def test_rows_that_are_left_out_are_told(call, recipe_file: Path) -> None:
    run = recipe_file.parent / "out"
    changes = ("stages.see.steps=1", "stages.see.max_length=12", "stages.see.over_length=skip", "evaluate.data=null")
    done = call("train", recipe_file, *changes, "--out", run)
    assert done.exit_code == 0, done.output
    facts = json.loads((run / "run.json").read_text())
    assert 0 < facts["skipped_count"] == len(facts["skipped_rows"]) < 12
    first = facts["skipped_rows"][0]["where"]
    told = f"left out: {facts['skipped_count']} rows, listed in run.json; the first: {first}"
    assert told in done.stdout and "more than max_length 12" in done.stdout
    assert call("train", "--resume", run).stdout.count("left out: ") == 1
    assert json.loads((run / "run.json").read_text())["skipped_count"] == facts["skipped_count"]


def test_a_finished_run_is_not_trained_again(call, recipe_file: Path) -> None:
    run = recipe_file.parent / "out"
    assert call("train", recipe_file, "stages.see.steps=2", "log_every=1", "--out", run).exit_code == 0
    done = call("train", "--resume", run)
    assert done.exit_code == 0, done.output
    assert steps(run) == [1, 2]


@pytest.mark.slow
def test_an_interrupted_run_says_how_to_go_on(recipe_file: Path) -> None:
    run = recipe_file.parent / "out"
    command = [sys.executable, "-m", "sightline", "train", str(recipe_file), "stages.see.steps=100000", "log_every=1"]
    process = subprocess.Popen([*command, "--out", str(run)], stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        deadline = time.monotonic() + 120
        while not (run / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM, said
    assert f"sightline train --resume {run}" in said
    assert "Traceback" not in said
    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"
