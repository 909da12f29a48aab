"""torchrun: one script that is started on every machine. The other containers' targets carry it along."""

from __future__ import annotations

from sightline.plan.launch.job import GRACE, PORT, RESTARTS, Files, Job
from sightline.plan.launch.render import script


def files(job: Job) -> Files:
    """`run.sh`, and the recipe beside it."""
    if job.nodes == 1:
        steps: tuple[str, ...] = ("bash run.sh",)
    else:
        steps = (
            f"on each of the {job.nodes} machines, in this folder (all of them see it, and the run directory):",
            f"  HEAD=FIRST-MACHINE:{PORT} bash run.sh",
        )
    return Files({"run.sh": run_script(job), "recipe.yaml": job.yaml}, steps)


def run_script(job: Job, run: str | None = None) -> str:
    """The script; `run`: the run directory, where the target says where it is."""
    return script(
        "torchrun.sh.j2",
        job=job,
        port=PORT,
        restarts=RESTARTS,
        grace=GRACE,
        run=run or job.run or f"runs/{job.name}",
    )
