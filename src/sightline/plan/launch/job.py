"""A job: a recipe and the machines it is to run on, checked before a file is written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sightline.errors import UserError
from sightline.plan.devices import find
from sightline.plan.launch.fabric import Fabric, Setting, environment, fabric
from sightline.recipe.read import to_yaml
from sightline.recipe.schema import Recipe, Stage

NAME = re.compile(r"[a-z]([-a-z0-9]{0,46}[a-z0-9])?")  # a DNS label with room for what a cluster puts behind it
PORT = 29400  # torchrun's own default of a rendezvous
RESTARTS = 3  # of a run that broke: more often is a fault and not bad luck
GRACE = 300  # seconds for a last save: state of 100 GB to a file system of 1 GB/s, and as long again


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for on the command line.

    Attributes:
        run: the run directory as the machines see it. storage: what it lies on, where that has a name of its own (a
            volume claim, a bucket). hours: the time limit.
    """

    nodes: int = 1
    gpus: int = 8
    gpu: str = "h100-80gb"
    fabric: str | None = None
    image: str | None = None
    run: str | None = None
    storage: str | None = None
    name: str | None = None
    hours: float = 24.0


@dataclass(frozen=True, slots=True)
class Job:
    """A checked job. `data`: paths of this machine that the recipe reads."""

    recipe: Recipe
    name: str
    nodes: int
    gpus: int
    gpu: str
    fabric: Fabric
    image: str | None
    run: str | None
    storage: str | None
    hours: float

    @property
    def size(self) -> int:
        """Ranks in all."""
        return self.nodes * self.gpus

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The environment of every rank."""
        return environment(self.fabric)

    @property
    def yaml(self) -> str:
        """The recipe, resolved."""
        return to_yaml(self.recipe)

    @property
    def data(self) -> tuple[str, ...]:
        """Absolute paths that the recipe reads: they must be there on the machines too."""
        found = []
        for spec in self.recipe.data.values():
            found += [path for path in (spec.path, spec.annotations, spec.images) if path and path.startswith("/")]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Files:
    """What a target writes: file name -> text, and what to do with them, one line each."""

    files: Mapping[str, str]
    steps: tuple[str, ...]


def job(recipe: Recipe, asked: Asked) -> Job:
    """`recipe` on the machines that were asked for.

    Raises:
        UserError: machines that are none, an unknown GPU or fabric, a layout or a batch that they do not divide.
    """
    for key, count in (("--nodes", asked.nodes), ("--gpus", asked.gpus)):
        if count < 1:
            raise UserError(f"{count} of them run nothing", where=key, fix="give at least 1")
    if not 0 < asked.hours < math.inf:
        raise UserError(f"{asked.hours:g} hours are no time limit", where="--hours", fix="give hours above 0, e.g. 24")
    find(asked.gpu)
    chosen = asked.fabric or ("nvlink" if asked.nodes == 1 else "infiniband")
    name = asked.name or named(recipe.name)
    if not NAME.fullmatch(name):
        fix = "use up to 48 lower-case letters, digits and hyphens, a letter first"
        raise UserError(f"'{name}' cannot name a job on a cluster", where="--name", fix=fix)
    wires = fabric(chosen, asked.nodes)
    divides(recipe, asked.nodes, asked.gpus)
    return Job(
        recipe,
        name,
        asked.nodes,
        asked.gpus,
        asked.gpu.lower(),
        wires,
        asked.image,
        asked.run,
        asked.storage,
        asked.hours,
    )


def divides(recipe: Recipe, nodes: int, gpus: int) -> None:
    """Raise UserError where the recipe's layout or a stage's batch does not go on so many GPUs."""
    size = nodes * gpus
    ranks = recipe.parallel.sizes(size, gpus).data
    for stage in recipe.stages:
        check_batch(stage, ranks, size)


def check_batch(stage: Stage, ranks: int, gpus: int) -> None:
    """Raise UserError where the stage's batch is not dealt evenly to the ranks that are fed different rows."""
    if stage.batch % ranks:
        whom = f"{gpus} GPUs" if ranks == gpus else f"{ranks} data ranks of {gpus} GPUs"
        fix = f"set stages.{stage.name}.batch to a multiple of {ranks}, or choose a number of GPUs that divides it"
        what = f"a batch of {stage.batch} is not dealt evenly to {whom}"
        raise UserError(what, where=f"stages.{stage.name}.batch", fix=fix)


def named(text: str) -> str:
    """`text` as a cluster may call a job."""
    plain = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"run-{plain}"
    return plain[:48].strip("-")
