"""`sightline launch`: files for a cluster, or one message that says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

EVEN = ("stages.see.batch=64", "stages.instruct.batch=64")


def test_it_writes_files_and_says_what_to_run(call, tmp_path: Path) -> None:
    out = tmp_path / "job"
    done = call("launch", "quickstart", *EVEN, "--on", "slurm", "--nodes", 2, "--fabric", "efa", "--out", out)
    assert done.exit_code == 0, done.output
    assert sorted(path.name for path in out.iterdir()) == ["job.sbatch", "recipe.yaml"]
    assert f"cd {out}" in done.stdout and "sbatch job.sbatch" in done.stdout
    again = call("launch", "quickstart", *EVEN, "--on", "slurm", "--out", out)
    assert again.exit_code == 2 and "the folder holds job.sbatch and 1 more already" in again.stderr
    forced = call("launch", "quickstart", *EVEN, "--on", "slurm", "--out", out, "--force")
    assert forced.exit_code == 0 and "--nodes=1" in (out / "job.sbatch").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--on", "slrum"), "no target is called 'slrum' (did you mean 'slurm'?)"),
        (("--fabric", "infinband"), "did you mean 'infiniband'"),
        (("--fabric", "nvlink", "--nodes", "2"), "'nvlink' joins the GPUs of one machine, and 2 machines"),
        (("--nodes", "0"), "--nodes: 0 of them run nothing"),
        (("--gpus", "-1"), "--gpus: -1 of them run nothing"),
        (("--gpus", "7"), "not dealt evenly to 7 GPUs"),
        (("--gpus", "8", "parallel.tensor=3"), "does not make the 8 processes"),
        (("--gpu", "h1000"), "no GPU is known as 'h1000'"),
        (("--hours", "0"), "0 hours are no time limit"),
        (("--name", "Rm -rf"), "cannot name a job"),
    ],
)
def test_bad_input_writes_nothing(call, tmp_path: Path, arguments: tuple[str, ...], told: str) -> None:
    done = call("launch", "quickstart", *EVEN, "--out", tmp_path / "job", *arguments)
    assert done.exit_code == 2 and told in done.stderr, done.output
    assert not (tmp_path / "job").exists() and "Traceback" not in done.output


def test_an_unknown_recipe_or_a_file_in_the_way(call, tmp_path: Path) -> None:
    assert "no recipe is called 'quikstart'" in call("launch", "quikstart").stderr
    (tmp_path / "file").write_text("mine")
    done = call("launch", "quickstart", *EVEN, "--out", tmp_path / "file", "--force")
    assert done.exit_code == 2 and "this is a file" in done.stderr and (tmp_path / "file").read_text() == "mine"
