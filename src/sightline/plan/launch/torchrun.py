"""torchrun: one script that is started on every machine."""

from __future__ import annotations

from sightline.plan.launch.job import GRACE, PORT, RESTARTS, Files, Job
from sightline.plan.launch.render import script


def files(job: Job) -> Files:
    """`run.sh`, and the recipe beside it."""
    text = script(
        "torchrun.sh.j2", job=job, port=PORT, restarts=RESTARTS, grace=GRACE, run=job.run or f"runs/{job.name}"
    )
    if job.nodes == 1:
        steps: tuple[str, ...] = ("bash run.sh",)
    else:
        steps = (
            f"on each of the {job.nodes} machines, in this folder (all of them see it, and the run directory):",
            f"  HEAD=FIRST-MACHINE:{PORT} bash run.sh",
        )
    return Files({"run.sh": text, "recipe.yaml": job.yaml}, steps)
