"""`sightline sweep`: runs one after another, or written as an array."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

EVEN = ("stages.see.batch=64", "stages.instruct.batch=64")


@pytest.mark.slow
def test_runs_are_done_once_and_compared(call, recipe_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "swept"
    asked = ("sweep", recipe_file, "stages.see.lr=1e-3,1e-2", "log_every=1", "evaluate.data=null", "--out", out)
    done = call(*asked)
    assert done.exit_code == 0, done.output
    assert "2 of 2 runs are finished" in done.stdout and "stages.see.lr" in done.stdout
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["stages.see.lr"] for row in rows] == ["1e-3", "1e-2"] and all(float(row["loss"]) > 0 for row in rows)
    facts = (out / "runs/1/run/run.json").read_text()
    (out / "runs/0/run/run.json").write_text(json.dumps({"status": "interrupted"}))
    again = call(*asked)
    assert again.exit_code == 0 and "run 1 (stages.see.lr=1e-2, seed=0): finished before" in again.stderr, again.output
    assert "run 0 of 2" in again.stderr and (out / "runs/1/run/run.json").read_text() == facts
    other = call("sweep", recipe_file, "stages.see.lr=1e-3,5e-2", "--out", out)
    assert other.exit_code == 2 and "a sweep of other settings" in other.stderr


def test_a_run_that_bad_input_ends_does_not_end_the_others(call, recipe_file: Path, tmp_path: Path) -> None:
    paths = f"data.test.path={recipe_file.parent / 'none.json'},{recipe_file.parent / 'test.json'}"
    done = call("sweep", recipe_file, paths, "evaluate.data=null", "--out", tmp_path / "swept")
    assert done.exit_code == 2 and "1 of 2 runs are finished" in done.stdout, done.output


@pytest.mark.parametrize(
    ("target", "more", "files"),
    [
        ("slurm", ("--nodes", 2), {"array.sbatch"}),
        ("k8s", ("--image", "i:1"), {"array.yaml"}),
        ("skypilot", ("--image", "i:1", "--storage", "s3://b"), {"task.yaml", "run.sh", "launch.sh"}),
        ("torchrun", (), {"sweep.sh", "run.sh"}),
    ],
)
def test_arrays(call, tmp_path: Path, target: str, more: tuple[object, ...], files: set[str]) -> None:
    settings = ("sweep", "quickstart", *EVEN, "stages.see.lr=1e-3,2e-3", "--seeds", 2, "--out", tmp_path / "s")
    done = call(*settings, "--on", target, *more)
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "s").iterdir()} == files | {"runs", "sweep.json"}
    assert sorted(path.name for path in (tmp_path / "s" / "runs").iterdir()) == ["0", "1", "2", "3"]
    if target == "k8s":
        scripts, job = yaml.safe_load_all((tmp_path / "s" / "array.yaml").read_text())
        told = {each["name"]: each["value"] for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert job["spec"]["completions"] == 4 and "recipe-3.yaml" in scripts["data"]
        assert told["RECIPE"].endswith("recipe-$(JOB_COMPLETION_INDEX).yaml") and "HEAD" not in told
    collected = call(*settings, "--collect")
    assert collected.exit_code == 0 and "0 of 4 runs are finished" in collected.stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--on", "vertex"), "use one of torchrun, slurm, k8s, skypilot"),
        (("--on", "torchrun", "--nodes", 2), "torchrun starts one machine's runs"),
        (("--on", "k8s", "--nodes", 2, "--image", "i"), "each run has one machine"),
        (("--on", "slurm", "--gpus", 7), "not dealt evenly to 7 GPUs"),
        (("--seeds", 0), "0 seeds"),
        (("stages.see.lr=1e-3",), "comes twice"),
    ],
)
def test_bad_input_writes_nothing(call, tmp_path: Path, arguments: tuple[object, ...], told: str) -> None:
    out = tmp_path / "s"
    done = call("sweep", "quickstart", *EVEN, "stages.see.lr=1e-3,2e-3", "--out", out, *arguments)
    assert done.exit_code == 2 and told in done.stderr and not out.exists(), done.output


def test_a_folder_of_something_else_is_left_alone(call, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = call("sweep", "quickstart", "seed=1,2", "--out", tmp_path)
    assert done.exit_code == 2 and "no sweep" in done.stderr and [*tmp_path.iterdir()] == [tmp_path / "mine"]
