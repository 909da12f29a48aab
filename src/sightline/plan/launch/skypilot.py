"""SkyPilot: a task, run on any cloud that has the machines; as a managed job it is moved when they are taken away.

Sources: SkyPilot 0.14, "Task YAML", "Distributed multi-node jobs", "Managed jobs".
"""

from __future__ import annotations

from typing import Any

from sightline.errors import UserError
from sightline.plan.launch.job import PORT, Files, Job
from sightline.plan.launch.machines import skypilot
from sightline.plan.launch.render import document
from sightline.plan.launch.torchrun import run_script

STORAGE = "/storage"
NOTES = {
    "network_tier": "the cloud's fast network between machines, with what it needs in the image",
    "file_mounts": "runs, and the recipe's data",
    "job_recovery": "as a managed job: another machine when one is taken away, and the run goes on",
}


def files(job: Job) -> Files:
    """`task.yaml`, with script and recipe beside it. Raises UserError for what is missing."""
    if job.storage is None or "://" not in job.storage:
        fix = "give a bucket, e.g. s3://BUCKET or gs://BUCKET"
        raise UserError("a cluster keeps nothing when it is taken down", where="--storage", fix=fix)
    if job.image is None:
        raise UserError(
            "a task runs in an image", where="--image", fix="name one (Debian or Ubuntu) with sightline in it"
        )
    head = (f"{job.name}: {job.nodes} x {job.gpus} {job.gpu}, {job.fabric.what}.", "sky jobs launch task.yaml")
    text = document(task(job), head=head, notes=NOTES)
    run = run_script(job, job.run or f"{STORAGE}/runs/{job.name}")
    return Files({"task.yaml": text, "run.sh": run, "recipe.yaml": job.yaml}, ("sky jobs launch task.yaml",))


def task(job: Job) -> dict[str, Any]:
    """The task."""
    resources: dict[str, Any] = {"accelerators": f"{skypilot(job.gpu)}:{job.gpus}"}
    resources |= {"image_id": f"docker:{job.image}", "disk_size": 500}
    if job.nodes > 1 and job.fabric.fast:
        resources["network_tier"] = "best"
    resources["job_recovery"] = {"max_restarts_on_errors": 3}
    return {
        "name": job.name,
        "num_nodes": job.nodes,
        "resources": resources,
        "workdir": ".",
        "file_mounts": {STORAGE: {"source": job.storage, "mode": "MOUNT"}},
        "run": run(job),
    }


def run(job: Job) -> str:
    """What each machine runs, in the folder that was sent along."""
    if job.nodes == 1:
        return "exec bash run.sh\n"
    return f'HEAD="$(head -n1 <<<"$SKYPILOT_NODE_IPS"):{PORT}"\nexport HEAD\nexec bash run.sh\n'
