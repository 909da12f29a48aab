"""The shell scripts: what bash and shellcheck say of them, what they tell torchrun and Slurm."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sightline.plan.launch import slurm, torchrun
from sightline.plan.launch.fabric import FABRICS
from sightline.plan.launch.job import Job
from sightline.recipe import load
from tests.plan.launch.asked import made

# Of `man sbatch` (Slurm 24.11): long options that a script may hold.
SBATCH = {"array", "cpus-per-task", "gpus-per-node", "job-name", "nodes", "ntasks-per-node", "open-mode", "output"}
SBATCH |= {"requeue", "signal", "time"}


def scripts() -> dict[str, str]:
    """One of each kind, over all fabrics."""
    found = {}
    for name, fabric in FABRICS.items():
        job = made(nodes=4 if fabric.nodes else 1, fabric=name, image="ghcr.io/me/sightline:1 b")
        found[f"{name}.sh"] = torchrun.files(job).files["run.sh"]
        found[f"{name}.sbatch"] = slurm.files(job).files["job.sbatch"]
    found["array.sbatch"] = slurm.batch(made(nodes=2), runs=12)
    return found


def test_bash_and_shellcheck_find_nothing(tmp_path: Path) -> None:
    for name, text in scripts().items():
        (tmp_path / name).write_text(text)
        read = subprocess.run(["bash", "-n", tmp_path / name], capture_output=True, text=True, check=False)
        assert read.returncode == 0, read.stderr
    if checker := shutil.which("shellcheck"):
        done = subprocess.run([checker, *tmp_path.iterdir()], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", FABRICS)
def test_every_setting_has_its_reason_above_it(name: str) -> None:
    job = made(nodes=4 if FABRICS[name].nodes else 1, fabric=name)
    lines = torchrun.files(job).files["run.sh"].splitlines()
    for each in job.settings:
        place = next(i for i, line in enumerate(lines) if line.startswith(f"export {each.name}="))
        assert lines[place - 1] == f"# {each.why}" and each.value.replace("'", "") in lines[place]


@pytest.mark.slow
def test_sbatch_options_are_slurms() -> None:
    for name, text in scripts().items():
        if name.endswith(".sbatch"):
            head, _, _ = text.partition("set -uo pipefail")
            options = re.findall(r"^#SBATCH --([a-z-]+)(?:=\S+)?$", head, re.MULTILINE)
            assert len(options) == head.count("\n#SBATCH") and set(options) <= SBATCH, name


@pytest.mark.parametrize(
    ("hours", "told"), [(24, "1-00:00:00"), (0.5, "0-00:30:00"), (1.001, "0-01:01:00"), (49.25, "2-01:15:00")]
)
def test_time_limit(hours: float, told: str) -> None:
    assert slurm.limit(hours) == told
    assert f"--time={told}\n" in slurm.batch(made(hours=hours))


def test_a_short_job_saves_in_its_last_quarter() -> None:
    assert "--signal=TERM@300" in slurm.batch(made(hours=1))
    assert "--signal=TERM@90" in slurm.batch(made(hours=0.1))


def test_the_array_runs_each_recipe() -> None:
    text = slurm.batch(made(), runs=5)
    assert "#SBATCH --array=0-4" in text and "RECIPE=runs/$SLURM_ARRAY_TASK_ID/recipe.yaml" in text


@pytest.mark.slow
def test_what_goes_into_a_script_is_quoted() -> None:
    text = torchrun.files(made(run="my runs/$(touch x)")).files["run.sh"]
    assert "RUN=${RUN:-'my runs/$(touch x)'}" in text


def test_the_recipe_beside_it_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    job: Job = made("seed=7")
    (tmp_path / "recipe.yaml").write_text(torchrun.files(job).files["recipe.yaml"])
    assert load(str(tmp_path / "recipe.yaml")) == job.recipe and job.recipe.seed == 7
