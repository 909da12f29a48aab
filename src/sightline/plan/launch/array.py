"""The runs of a sweep as an array: one job a target knows how to repeat."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sightline.errors import UserError, nearest
from sightline.plan.launch import kubernetes, skypilot, slurm
from sightline.plan.launch.job import Files, Job
from sightline.plan.launch.render import document
from sightline.plan.launch.torchrun import run_script
from sightline.recipe.read import to_yaml
from sightline.recipe.schema import Recipe

CONFIG_MAP = 900_000  # bytes of recipes: Kubernetes takes 1 MiB in one, names and the script included
ONE_BY_ONE = 'for run in runs/*/; do\n  RECIPE="${run}recipe.yaml" RUN="${run}run" bash run.sh\ndone\n'


def torchrun_files(job: Job, recipes: Sequence[Recipe]) -> Files:
    """`sweep.sh`, which runs them one after another on this machine's GPUs."""
    if job.nodes > 1:
        raise UserError("torchrun starts one machine's runs", where="--nodes", fix="use --on slurm, or --nodes 1")
    head = "#!/usr/bin/env bash\n# Each run in its turn; one that is finished ends at once, one that broke goes on.\n"
    text = f'{head}set -uo pipefail\ncd "$(dirname "${{BASH_SOURCE[0]}}")" || exit 2\n\n{ONE_BY_ONE}'
    return Files({"sweep.sh": text, "run.sh": run_script(job)}, ("bash sweep.sh",))


def slurm_files(job: Job, recipes: Sequence[Recipe]) -> Files:
    """`array.sbatch`."""
    return Files({"array.sbatch": slurm.batch(job, len(recipes))}, ("sbatch array.sbatch",))


def kubernetes_files(job: Job, recipes: Sequence[Recipe]) -> Files:
    """`array.yaml`: an Indexed Job, a pod a run."""
    if job.nodes > 1:
        what = "the pods of an Indexed Job are the runs, so each run has one machine"
        raise UserError(what, where="--nodes", fix="use --nodes 1, or --on slurm")
    if job.image is None:
        raise UserError("a pod runs an image", where="--image", fix="name one with sightline and CUDA's torch in it")
    texts = {f"recipe-{number}.yaml": to_yaml(recipe) for number, recipe in enumerate(recipes)}
    if sum(map(len, texts.values())) > CONFIG_MAP:
        what = f"{len(texts)} recipes are more than one ConfigMap holds"
        raise UserError(what, fix="give fewer values or seeds, or several sweeps")
    scripts = kubernetes.config_map(job)
    scripts["data"] = texts | {"run.sh": scripts["data"]["run.sh"]}
    told = kubernetes.indexed_job(job)
    told["spec"] |= {"completions": len(recipes), "parallelism": len(recipes), "backoffLimit": 3 * len(recipes)}
    container: dict[str, Any] = told["spec"]["template"]["spec"]["containers"][0]
    folder = f"{kubernetes.run_directory(job)}/$(JOB_COMPLETION_INDEX)"  # filled in by Kubernetes
    container["env"] += [
        {"name": "RECIPE", "value": f"{kubernetes.SCRIPTS}/recipe-$(JOB_COMPLETION_INDEX).yaml"},
        {"name": "RUN", "value": folder},
    ]
    head = (f"{job.name}: {len(recipes)} runs of {job.gpus} {job.gpu}, a pod each.", "kubectl apply -f array.yaml")
    notes = kubernetes.NOTES | {"parallelism": "lower it to leave others some room"}
    text = document(scripts, told, head=head, notes=notes)
    return Files({"array.yaml": text}, ("kubectl apply -f array.yaml",))


def skypilot_files(job: Job, recipes: Sequence[Recipe]) -> Files:
    """`task.yaml`, and `launch.sh` that starts it as one managed job a run."""
    found = skypilot.files(job).files
    told = skypilot.task(job)
    told["envs"] = {"INDEX": "0"}
    where = f"{job.run or f'{skypilot.STORAGE}/runs/{job.name}'}/$INDEX"
    told["run"] = f'export RECIPE="runs/$INDEX/recipe.yaml" RUN="{where}"\n{told["run"]}'
    head = (f"{job.name}: a run of the sweep, by its number INDEX.", "bash launch.sh")
    text = "#!/usr/bin/env bash\n# A managed job for each run.\nset -euo pipefail\n"
    text += f"for index in $(seq 0 {len(recipes) - 1}); do\n"
    text += f'  sky jobs launch -y -d --name "{job.name}-$index" --env INDEX="$index" task.yaml\ndone\n'
    files = {"task.yaml": document(told, head=head, notes=skypilot.NOTES), "run.sh": found["run.sh"], "launch.sh": text}
    return Files(files, ("bash launch.sh",))


ARRAYS: dict[str, Callable[[Job, Sequence[Recipe]], Files]] = {
    "torchrun": torchrun_files,
    "slurm": slurm_files,
    "k8s": kubernetes_files,
    "skypilot": skypilot_files,
}


def array(name: str) -> Callable[[Job, Sequence[Recipe]], Files]:
    """What writes a sweep for the target `name`. Raises UserError, with the list, where none does."""
    if name not in ARRAYS:
        what = f"no target for a sweep is called '{name}' ({nearest(name, ARRAYS)})"
        raise UserError(what, where="--on", fix=f"use one of {', '.join(ARRAYS)}")
    return ARRAYS[name]
