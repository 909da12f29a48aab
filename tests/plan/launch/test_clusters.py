"""Files for clusters: their structure, and, where a cluster's own library is installed, what that says of them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sightline.errors import UserError
from sightline.plan.launch import array, kubernetes, skypilot, vertex
from sightline.plan.launch.fabric import FABRICS
from sightline.recipe.read import validate
from tests.plan.launch.asked import made

IMAGE = "registry.example/sightline:1"
WIRES = [name for name in FABRICS if name != "gcp-tcpx"]


def pods(fabric: str = "infiniband", nodes: int = 4, **asked: Any) -> dict[str, list[dict[str, Any]]]:
    """Kubernetes' files, read back."""
    nodes = nodes if FABRICS[fabric].nodes else 1
    found = kubernetes.files(made(nodes=nodes, fabric=fabric, image=IMAGE, **asked)).files
    return {name: list(yaml.safe_load_all(text)) for name, text in found.items()}


def custom_job(**asked: Any) -> dict[str, Any]:
    asked = {"gpu": "a100-80gb", "nodes": 8, "storage": "gs://bucket", "fabric": "ethernet", "image": IMAGE} | asked
    return yaml.safe_load(vertex.files(made(*asked.pop("overrides", ()), **asked)).files["job.yaml"])


def task(**asked: Any) -> dict[str, Any]:
    asked = {"nodes": 2, "storage": "s3://bucket", "fabric": "efa", "image": IMAGE} | asked
    return yaml.safe_load(skypilot.files(made(**asked)).files["task.yaml"])


def test_an_indexed_job_finds_its_first_pod() -> None:
    scripts, service, job = pods()["job.yaml"]
    spec = job["spec"]
    pod = spec["template"]["spec"]
    assert spec["completions"] == spec["parallelism"] == 4 and spec["completionMode"] == "Indexed"
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["selector"]["job-name"] == job["metadata"]["name"]
    assert pod["subdomain"] == service["metadata"]["name"] and pod["restartPolicy"] == "Never"
    told = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    assert told["HEAD"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}:29400"
    mounted = {each["name"] for each in pod["containers"][0]["volumeMounts"]}
    assert mounted <= {each["name"] for each in pod["volumes"]}
    assert "--nnodes 4" in scripts["data"]["run.sh"] and scripts["metadata"]["name"] == "quickstart"
    assert validate(yaml.safe_load(scripts["data"]["recipe.yaml"]), "it").name == "quickstart"


@pytest.mark.slow
def test_comments_stand_above_what_they_explain_and_not_inside_texts() -> None:
    text = kubernetes.files(made(nodes=2, image=IMAGE)).files["job.yaml"]
    lines = text.splitlines()
    place = next(i for i, line in enumerate(lines) if line.strip() == "backoffLimit: 6")
    assert lines[place - 1].strip().startswith("# pods that broke")
    recipe = made(nodes=2).yaml
    told = vertex.files(made(nodes=2, gpu="a100-80gb", storage="gs://b", image=IMAGE)).files["job.yaml"]
    assert recipe in yaml.safe_load(told)["workerPoolSpecs"][0]["containerSpec"]["args"][0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpu", "fabric", "resource", "count"),
    [
        ("h100-80gb", "efa", "vpc.amazonaws.com/efa", 32),
        ("a100-80gb", "efa", "vpc.amazonaws.com/efa", 4),
        ("h100-80gb", "infiniband", "rdma/rdma_shared_device_a", 1),
    ],
)
def test_pods_get_their_adapters(gpu: str, fabric: str, resource: str, count: int) -> None:
    for name, place in (("job.yaml", 2), ("trainjob.yaml", 1)):
        spec = pods(fabric, gpu=gpu)[name][place]["spec"]
        holder = spec["trainer"]["resourcesPerNode"] if "trainer" in spec else None
        limits = (holder or spec["template"]["spec"]["containers"][0]["resources"])["limits"]
        assert limits[resource] == count and limits["nvidia.com/gpu"] == 8


@pytest.mark.parametrize("fabric", WIRES)
def test_kubernetes_client_knows_every_field(fabric: str) -> None:
    client = pytest.importorskip("kubernetes.client", reason="the Kubernetes client is not installed")
    kinds = {"ConfigMap": "V1ConfigMap", "Service": "V1Service", "Job": "V1Job"}
    for document in pods(fabric)["job.yaml"]:
        if document["kind"] == "Job":  # quantities are numbers or texts, and the client says texts
            limits = document["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
            limits.update({name: str(size) for name, size in limits.items()})
        api = client.ApiClient()
        read = api._ApiClient__deserialize(document, kinds[document["kind"]])
        assert api.sanitize_for_serialization(read) == document  # a field that it does not know would be gone


@pytest.mark.parametrize("fabric", [name for name in WIRES if name != "gcp-tcpxo"])
def test_kubeflow_trainer_knows_every_field(fabric: str) -> None:
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="Kubeflow Trainer's models are not installed")
    job = pods(fabric)["trainjob.yaml"][1]
    read = models.TrainerV1alpha1TrainJob.from_dict(job)
    told = read.to_dict()
    assert {key: told[key] for key in job} == job


def test_gpudirect_tcpxo_brings_its_daemon() -> None:
    (job,) = (each for each in pods("gcp-tcpxo")["job.yaml"] if each["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    assert pod["initContainers"][0]["restartPolicy"] == "Always" and "trainjob.yaml" not in pods("gcp-tcpxo")
    with pytest.raises(UserError, match="privileged daemon"):
        pods("gcp-tcpx")


def test_reducers_send_what_the_machines_send() -> None:
    first, others, reducers = custom_job()["workerPoolSpecs"]
    assert (first["replicaCount"], others["replicaCount"]) == (1, 7)
    assert first["machineSpec"] == others["machineSpec"]
    assert reducers["replicaCount"] == 25  # Google's own example: 8 x 100 Gbps over 32
    assert "acceleratorType" not in reducers["machineSpec"]
    assert reducers["containerSpec"]["imageUri"].endswith("vertex-ai-restricted/training/reductionserver:latest")


@pytest.mark.parametrize(
    "asked", [{"nodes": 1}, {"overrides": ("parallel=fsdp",)}, {"gpu": "h100-80gb", "fabric": "gcp-tcpx"}]
)
def test_no_reducers_where_they_would_not_serve(asked: dict[str, Any]) -> None:
    kinds = [pool["machineSpec"]["machineType"] for pool in custom_job(**asked)["workerPoolSpecs"]]
    assert "n1-highcpu-16" not in kinds


def test_what_a_custom_job_runs_is_a_script(tmp_path: Path) -> None:
    command, text = (custom_job()["workerPoolSpecs"][0]["containerSpec"][key] for key in ("command", "args"))
    assert command == ["bash", "-c"]
    done = subprocess.run(["bash", "-n"], input=text[0], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "RUN=${RUN:-/gcs/bucket/runs/quickstart}" in text[0], done.stderr


def test_a_file_server_is_mounted() -> None:
    pool = custom_job(storage="nfs://10.0.0.2/share")["workerPoolSpecs"][0]
    assert pool["nfsMounts"] == [{"server": "10.0.0.2", "path": "/share", "mountPoint": "storage"}]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"nodes": 1},
        {"storage": "nfs://s/p"},
        {"gpu": "h100-80gb", "fabric": "gcp-tcpxo"},
        {"gpu": "l4-24gb", "gpus": 4},
    ],
)
def test_vertex_ais_own_types_take_it(asked: dict[str, Any]) -> None:
    types = pytest.importorskip("google.cloud.aiplatform_v1.types", reason="google-cloud-aiplatform is not installed")
    from google.protobuf import json_format

    read = types.CustomJobSpec()
    json_format.ParseDict(custom_job(**asked), read._pb)  # raises for a field or an enumerator that it does not know
    assert read.worker_pool_specs[0].replica_count == 1 and read.scheduling.timeout.total_seconds() == 86400


@pytest.mark.slow
def test_a_task_meets_at_its_first_machine() -> None:
    told = task()
    assert told["num_nodes"] == 2 and told["resources"]["accelerators"] == "H100:8"
    assert told["resources"]["network_tier"] == "best" and "$SKYPILOT_NODE_IPS" in told["run"]
    assert "HEAD" not in task(nodes=1, fabric=None)["run"]


@pytest.mark.parametrize("asked", [{}, {"nodes": 1, "fabric": None}, {"gpu": "l4-24gb", "fabric": "ethernet"}])
def test_skypilots_own_schema_takes_it(asked: dict[str, Any]) -> None:
    schemas = pytest.importorskip("sky.utils.schemas", reason="SkyPilot is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(task(**asked), schemas.get_task_schema())
    jsonschema.validate(task(**asked)["resources"], schemas.get_resources_schema())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "asked", "told"),
    [
        (kubernetes.files, {}, "--image"),
        (vertex.files, {"image": IMAGE}, "--storage"),
        (vertex.files, {"image": IMAGE, "storage": "gs://b", "gpu": "v100-32gb"}, "Vertex AI has no v100-32gb"),
        (vertex.files, {"image": IMAGE, "storage": "gs://b", "gpus": 2}, "no machine of 2 h100-80gb"),
        (skypilot.files, {"image": IMAGE}, "--storage"),
        (skypilot.files, {"image": IMAGE, "storage": "s3://b", "gpu": "h100-pcie-80gb"}, "SkyPilot has no name"),
    ],
)
def test_what_is_missing_is_told(write: Any, asked: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        write(made(**asked))


def test_arrays_hold_to_the_same_schemas() -> None:
    client = pytest.importorskip("kubernetes.client", reason="the Kubernetes client is not installed")
    schemas = pytest.importorskip("sky.utils.schemas", reason="SkyPilot is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    job = made(image=IMAGE, storage="s3://bucket")
    text = array.kubernetes_files(job, [job.recipe] * 3).files["array.yaml"]
    told = list(yaml.safe_load_all(text))[1]
    limits = told["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    limits.update({name: str(size) for name, size in limits.items()})
    api = client.ApiClient()
    assert api.sanitize_for_serialization(api._ApiClient__deserialize(told, "V1Job")) == told
    files = array.skypilot_files(job, [job.recipe] * 3).files
    jsonschema.validate(yaml.safe_load(files["task.yaml"]), schemas.get_task_schema())
    assert "seq 0 2" in files["launch.sh"]
