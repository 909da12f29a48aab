"""Vertex AI: a custom job of up to three worker pools: the first machine, the others, and a Reduction Server.

Sources (2026-11): Google, "Distributed training" (pools, CLUSTER_SPEC, Reduction Server's prerequisites and how many
reducers), CustomJobSpec of google-cloud-aiplatform.
"""

from __future__ import annotations

import math
from typing import Any

from sightline.errors import UserError
from sightline.plan.launch.job import PORT, Files, Job
from sightline.plan.launch.machines import Machine, vertex
from sightline.plan.launch.render import document, script
from sightline.plan.launch.torchrun import run_script

REDUCER, REDUCER_EGRESS = "n1-highcpu-16", 32  # the machine that Google recommends, and its Gbps
REDUCTION = "{region}-docker.pkg.dev/vertex-ai-restricted/training/reductionserver:latest"
SLOW = 100  # Gbps: faster machines have a network of GPUs' own, which a reducer is not on
BUCKET, NFS = "gs://", "nfs://"
NOTES = {
    "timeout": "the time limit; a job that was stopped by it goes on when it is created again",
    "restartJobOnWorkerRestart": "all machines start anew together: ranks cannot join a run that is under way",
    "nfsMounts": "recipes' data and runs",
}


def files(job: Job) -> Files:
    """`job.yaml`, a CustomJobSpec. Raises UserError without an image or storage, or for machines that there are not."""
    if job.image is None:
        raise UserError(
            "a worker pool runs an image", where="--image", fix="name one in Artifact Registry, with sightline"
        )
    if job.storage is None or not job.storage.startswith((BUCKET, NFS)):
        fix = f"give {BUCKET}BUCKET, or {NFS}SERVER/PATH for a run that writes much"
        raise UserError("a custom job keeps nothing when it ends", where="--storage", fix=fix)
    machine = vertex(job.gpu, job.gpus, mega=job.fabric.profile is not None)
    reducers = reduction_servers(job, machine)
    text = document(spec(job, machine, reducers), head=head(job, reducers), notes=NOTES)
    create = f"gcloud ai custom-jobs create --region=us-central1 --display-name={job.name} --config=job.yaml"
    return Files({"job.yaml": text}, (create,))


def head(job: Job, reducers: int) -> list[str]:
    """What a person should know before it is created."""
    told = [f"{job.name}: {job.nodes} x {job.gpus} {job.gpu} on Vertex AI, {job.fabric.what}."]
    if reducers:
        told += [
            f"The third pool is a Reduction Server: {reducers} {REDUCER}, {REDUCER_EGRESS} Gbps each, send as much as",
            "the machines with GPUs do. It halves what an all-reduce sends, and serves nothing else: layout ddp.",
            "Your image needs the package google-reduction-server, in place of google-fast-socket, and NCCL 2.7 on.",
            "Its own image is in us, europe and asia: take the nearest. To go without, leave the pool out.",
        ]
    return told


def reduction_servers(job: Job, machine: Machine) -> int:
    """How many reducers: as many as send what the machines send; none where they would not serve."""
    serves = job.nodes > 1 and job.recipe.parallel.kind == "ddp" and machine.egress <= SLOW
    return math.ceil(job.nodes * machine.egress / REDUCER_EGRESS) if serves else 0


def spec(job: Job, machine: Machine, reducers: int) -> dict[str, Any]:
    """The CustomJobSpec."""
    pools = [pool(job, machine, 1)]
    if job.nodes > 1:
        pools.append(pool(job, machine, job.nodes - 1))
    if reducers:
        pools.append(
            {
                "machineSpec": {"machineType": REDUCER},
                "replicaCount": reducers,
                "containerSpec": {"imageUri": REDUCTION.format(region="us")},
            }
        )
    scheduling = {"timeout": f"{round(job.hours * 3600)}s", "restartJobOnWorkerRestart": job.nodes > 1}
    return {"workerPoolSpecs": pools, "scheduling": scheduling}


def pool(job: Job, machine: Machine, replicas: int) -> dict[str, Any]:
    """Machines with GPUs, and what they run."""
    text = script("vertex.sh.j2", job=job, port=PORT, recipe=job.yaml, run=run_script(job, run_directory(job)))
    told: dict[str, Any] = {
        "machineSpec": {
            "machineType": machine.kind,
            "acceleratorType": machine.accelerator,
            "acceleratorCount": job.gpus,
        },
        "replicaCount": replicas,
        "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": 500},
        "containerSpec": {"imageUri": job.image, "command": ["bash", "-c"], "args": [text]},
    }
    if (job.storage or "").startswith(NFS):
        server, _, path = (job.storage or "").removeprefix(NFS).partition("/")
        told["nfsMounts"] = [{"server": server, "path": f"/{path}", "mountPoint": "storage"}]
    return told


def run_directory(job: Job) -> str:
    """The run directory in the container: buckets are mounted at /gcs, file servers under mnt/nfs."""
    storage = job.storage or ""
    bucket = storage.removeprefix(BUCKET).strip("/")
    place = "/".join(("", "mnt", "nfs", "storage")) if storage.startswith(NFS) else f"/gcs/{bucket}"
    return job.run or f"{place}/runs/{job.name}"
