"""Kubernetes: an Indexed Job behind a headless service, and the same as a TrainJob of Kubeflow Trainer.

Both carry the recipe and torchrun's script in a ConfigMap. Sources: Kubernetes, "Job with Pod-to-Pod Communication",
"Pod failure policy"; Kubeflow Trainer v2, TrainJob API; Google, GPUDirect-TCPXO release notes.
"""

from __future__ import annotations

import json
from typing import Any

from sightline.errors import UserError
from sightline.plan.launch.job import GRACE, PORT, RESTARTS, Files, Job
from sightline.plan.launch.machines import EFA
from sightline.plan.launch.render import document
from sightline.plan.launch.torchrun import run_script

SCRIPTS, STORAGE = "/etc/sightline", "/storage"
CLAIM = "sightline"
GKE = "/home"  # of a GKE node: where its drivers and plugins are installed
TCPXO = "us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo/tcpgpudmarxd-dev:v1.0.20"
NOTES = {
    "publishNotReadyAddresses": "ranks look for each other before any of them is ready",
    "backoffLimit": "pods that broke, over all of them; torchrun has restarted its ranks before one counts",
    "podFailurePolicy": "a pod that the cluster took away (preemption, drain) does not count",
    "podReplacementPolicy": "never two pods of one index at a time",
    "terminationGracePeriodSeconds": "for the save that SIGTERM asks for",
    "shm": "NCCL's and data loading's shared memory; the default of 64 MiB is too small",
    "claimName": "a ReadWriteMany claim, seen by all pods: runs, and the recipe's data",
    "rdma/rdma_shared_device_a": "the adapters, under the name that the cluster's RDMA device plugin gives them",
    "vpc.amazonaws.com/efa": "all adapters of the machine; hugepages are EFA's own buffers",
    "tcpxo-daemon": "receives for the plugin, as a sidecar; its version must fit the node's GPU driver",
}


def files(job: Job) -> Files:
    """`job.yaml` and `trainjob.yaml`: either does it all. Raises UserError without an image, or for gcp-tcpx."""
    if job.image is None:
        raise UserError("a pod runs an image", where="--image", fix="name one with sightline and CUDA's torch in it")
    if "GPUDirectTCPX_v7" in (each.value for each in job.settings):
        what = "GPUDirect-TCPX needs a privileged daemon in every pod, which is not written here"
        raise UserError(what, where="--fabric gcp-tcpx", fix="use gcp-tcpxo (a3-megagpu-8g), or ethernet")
    scripts = config_map(job)
    head = (f"{job.name}: {job.nodes} x {job.gpus} {job.gpu}, {job.fabric.what}.",)
    usual = document(scripts, service(job), indexed_job(job), head=(*head, "kubectl apply -f job.yaml"), notes=NOTES)
    steps = ("kubectl apply -f job.yaml", f"kubectl logs -f job/{job.name}")
    if job.fabric.profile:  # a TrainJob cannot add a sidecar to its runtime's pods
        return Files({"job.yaml": usual}, steps)
    how = "kubectl apply -f trainjob.yaml, where Kubeflow Trainer (2.3) and its runtime torch-distributed are"
    trainer = document(scripts, train_job(job), head=(*head, how), notes=NOTES)
    return Files({"job.yaml": usual, "trainjob.yaml": trainer}, (*steps, f"or, in place of job.yaml: {how}"))


def run_directory(job: Job) -> str:
    """The run directory in a pod."""
    return job.run or f"{STORAGE}/runs/{job.name}"


def config_map(job: Job) -> dict[str, Any]:
    """Recipe and script."""
    data = {"recipe.yaml": job.yaml, "run.sh": run_script(job, run_directory(job))}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": job.name}, "data": data}


def service(job: Job) -> dict[str, Any]:
    """Gives each pod a name: <job>-<index>.<job>."""
    spec = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": {"job-name": job.name}}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": job.name}, "spec": spec}


def indexed_job(job: Job) -> dict[str, Any]:
    """A pod a machine, each with its index."""
    template = {"metadata": {"labels": {"app": "sightline"}, **networks(job)}, "spec": pod(job)}
    spec = {
        "completions": job.nodes,
        "parallelism": job.nodes,
        "completionMode": "Indexed",
        "backoffLimit": RESTARTS * job.nodes,
        "podFailurePolicy": {
            "rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        },
        "podReplacementPolicy": "Failed",
        "activeDeadlineSeconds": round(job.hours * 3600),
        "template": template,
    }
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": job.name}, "spec": spec}


def networks(job: Job) -> dict[str, Any]:
    """What GKE is told of a pod's networks."""
    if job.fabric.profile is None:
        return {}
    cards = [{"interfaceName": "eth0", "network": "default"}]
    cards += [{"interfaceName": f"eth{1 + i}", "network": f"vpc{1 + i}"} for i in range(8)]
    devices = [f"- path: /dev/nvidia{i}\n" for i in range(8)]
    devices += [f"- path: /dev/{name}\n" for name in ("nvidiactl", "nvidia-uvm", "dmabuf_import_helper")]
    told = {
        "devices.gke.io/container.tcpxo-daemon": "".join(devices),
        "networking.gke.io/default-interface": "eth0",
        "networking.gke.io/interfaces": json.dumps(cards),
    }
    return {"annotations": told}


def pod(job: Job) -> dict[str, Any]:
    """The pod of a machine."""
    spec: dict[str, Any] = {
        "subdomain": job.name,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE + 30,
    }
    if job.fabric.profile:
        spec["nodeSelector"] = {"cloud.google.com/gke-accelerator": "nvidia-h100-mega-80gb"}
        spec["initContainers"] = [tcpxo_daemon()]
    return spec | {"containers": [container(job)], "volumes": volumes(job)}


def container(job: Job) -> dict[str, Any]:
    """Runs torchrun's script."""
    told: dict[str, Any] = {
        "name": "trainer",
        "image": job.image,
        "command": ["bash", f"{SCRIPTS}/run.sh"],
        "env": environment(f"{job.name}-0.{job.name}:{PORT}" if job.nodes > 1 else None),
        "resources": resources(job),
    }
    if "rdma/rdma_shared_device_a" in told["resources"]["limits"]:
        told["securityContext"] = {"capabilities": {"add": ["IPC_LOCK"]}}  # adapters pin the memory they write to
    return told | {"volumeMounts": mounts(job)}


def environment(head: str | None) -> list[dict[str, str]]:
    """What differs from machine to machine, and where output goes (the script's own folder cannot be written)."""
    told = {"LOGS": "/tmp/logs"} | ({"HEAD": head} if head else {})
    return [{"name": name, "value": value} for name, value in told.items()]


def resources(job: Job) -> dict[str, Any]:
    """A machine's GPUs and adapters."""
    limits: dict[str, Any] = {"nvidia.com/gpu": job.gpus}
    names = {each.name for each in job.settings}
    if "FI_PROVIDER" in names and job.gpu in EFA:
        limits |= {"vpc.amazonaws.com/efa": EFA[job.gpu], "hugepages-2Mi": "5120Mi", "memory": "64Gi"}
    if "NCCL_IB_HCA" in names:
        limits["rdma/rdma_shared_device_a"] = 1
    return {"limits": limits}


def mounts(job: Job) -> list[dict[str, Any]]:
    """Where the volumes are in the container."""
    told: list[dict[str, Any]] = [
        {"name": "scripts", "mountPath": SCRIPTS, "readOnly": True},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "storage", "mountPath": STORAGE},
    ]
    if job.fabric.profile:
        told.append({"name": "libraries", "mountPath": "/usr/local/nvidia"})
        told.append({"name": "aperture-devices", "mountPath": "/dev/aperture_devices"})
    return told


def volumes(job: Job) -> list[dict[str, Any]]:
    """What the pod can see."""
    told: list[dict[str, Any]] = [
        {"name": "scripts", "configMap": {"name": job.name}},
        {"name": "shm", "emptyDir": {"medium": "Memory"}},
        {"name": "storage", "persistentVolumeClaim": {"claimName": job.storage or CLAIM}},
    ]
    if job.fabric.profile:
        host = {"libraries": f"{GKE}/kubernetes/bin/nvidia", "sys": "/sys", "proc-sys": "/proc/sys"}
        host["aperture-devices"] = "/dev/aperture_devices"
        told += [{"name": name, "hostPath": {"path": path}} for name, path in host.items()]
    return told


def tcpxo_daemon() -> dict[str, Any]:
    """Google's receiver of GPUDirect-TCPXO, which lives as long as the pod."""
    script = "set -ex\nchmod 755 /fts/entrypoint_rxdm_container.sh\n"
    script += "exec /fts/entrypoint_rxdm_container.sh --num_hops=2 --num_nics=8 --uid= --alsologtostderr\n"
    return {
        "name": "tcpxo-daemon",
        "image": TCPXO,
        "restartPolicy": "Always",
        "command": ["/bin/sh", "-c"],
        "args": [script],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_BIND_SERVICE"]}},
        "env": [{"name": "LD_LIBRARY_PATH", "value": "/usr/local/nvidia/lib64"}],
        "volumeMounts": [
            {"name": "libraries", "mountPath": "/usr/local/nvidia"},
            {"name": "sys", "mountPath": "/hostsysfs"},
            {"name": "proc-sys", "mountPath": "/hostprocsysfs"},
        ],
    }


def train_job(job: Job) -> dict[str, Any]:
    """The same for Kubeflow Trainer: its runtime makes pods and names, a patch adds the volumes."""
    head = f'HEAD="$PET_MASTER_ADDR:{PORT}" ' if job.nodes > 1 else ""
    trainer = {
        "image": job.image,
        "command": ["bash", "-c", f"{head}exec bash {SCRIPTS}/run.sh"],
        "env": environment(None),
        "numNodes": job.nodes,
        "numProcPerNode": job.gpus,
        "resourcesPerNode": resources(job),
    }
    patched: dict[str, Any] = {
        "terminationGracePeriodSeconds": GRACE + 30,
        "containers": [{"name": "node", "volumeMounts": mounts(job)}],
        "volumes": volumes(job),
    }
    node = {"name": "node", "template": {"spec": {"template": {"spec": patched}}}}
    spec = {
        "runtimeRef": {"name": "torch-distributed"},
        "activeDeadlineSeconds": round(job.hours * 3600),
        "trainer": trainer,
        "runtimePatches": [
            {
                "manager": "sightline.dev/launch",
                "trainingRuntimeSpec": {"template": {"spec": {"replicatedJobs": [node]}}},
            }
        ],
    }
    metadata = {"name": job.name}
    return {"apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob", "metadata": metadata, "spec": spec}
