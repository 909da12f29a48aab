"""Slurm: a batch script whose tasks are the ranks. It saves before its time is up, and is put back into the queue."""

from __future__ import annotations

from sightline.plan.launch.job import GRACE, RESTARTS, Files, Job
from sightline.plan.launch.render import script

CORES = 8  # of a rank, for its data loading; eight of them leave a node of 96 to 128 cores some


def files(job: Job) -> Files:
    """`job.sbatch`, and the recipe beside it."""
    return Files({"job.sbatch": batch(job), "recipe.yaml": job.yaml}, ("sbatch job.sbatch",))


def batch(job: Job, runs: int | None = None) -> str:
    """The batch script; `runs`: an array of so many tasks, each with its `runs/<number>/recipe.yaml`."""
    return script(
        "slurm.sbatch.j2",
        job=job,
        runs=runs,
        limit=limit(job.hours),
        cores=CORES,
        restarts=RESTARTS,
        grace=min(GRACE, max(60, round(job.hours * 900))),  # at most a quarter of the time
        run=job.run or f"runs/{job.name}",
    )


def limit(hours: float) -> str:
    """Hours as Slurm writes a time limit, days-hours:minutes:seconds; a part of a minute counts as one."""
    minutes = max(1, -int(-hours * 60 // 1))
    days, rest = divmod(minutes, 24 * 60)
    return f"{days}-{rest // 60:02}:{rest % 60:02}:00"
