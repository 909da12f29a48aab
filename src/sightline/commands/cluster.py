"""`sightline launch` and `sightline sweep` as the command line knows them: their options, and what they call."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

RecipeName = Annotated[str, typer.Argument(help="A shipped recipe's name (see `sightline recipes`) or a YAML file")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe, e.g. stages.instruct.steps=50"),
]
Nodes = Annotated[int, typer.Option(help="Machines of a run")]
Gpus = Annotated[int, typer.Option(help="GPUs of a machine")]
Gpu = Annotated[str, typer.Option(metavar="NAME", help="What kind; an unknown name lists them")]
Fabric = Annotated[str | None, typer.Option(help="What joins them [default: nvlink on one machine, else infiniband]")]
Image = Annotated[str | None, typer.Option(help="The container image with sightline in it")]
Storage = Annotated[str | None, typer.Option(help="A volume claim or a bucket, for data and runs")]
Hours = Annotated[float, typer.Option(help="Time limit of a run")]


@app.command()
def launch(
    recipe: RecipeName,
    overrides: Overrides = None,
    on: Annotated[str, typer.Option(metavar="TARGET", help="torchrun, slurm, k8s, vertex or skypilot")] = "torchrun",
    nodes: Nodes = 1,
    gpus: Gpus = 8,
    gpu: Gpu = "h100-80gb",
    fabric: Fabric = None,
    image: Image = None,
    run: Annotated[str | None, typer.Option(metavar="PATH", help="The run directory, as the machines see it")] = None,
    storage: Storage = None,
    name: Annotated[str | None, typer.Option(help="Of the job [default: the recipe's]")] = None,
    hours: Hours = 24.0,
    out: Annotated[Path | None, typer.Option(help="A folder for the files [default: jobs/<name>-<target>]")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the job's files there")] = False,
) -> None:
    """Write the files that start a recipe on a cluster, and say what to do with them."""
    from sightline.recipe import load

    chosen = load(recipe, overrides or [])
    from sightline.commands import launch as command

    asked = command.Asked(nodes, gpus, gpu, fabric, image, run, storage, name, hours)
    raise typer.Exit(command.launch(chosen, on, asked, out, force))


@app.command()
def sweep(
    recipe: RecipeName,
    settings: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE,VALUE...", help="Values to try, e.g. stages.see.lr=1e-3,2e-3")
    ],
    out: Annotated[Path, typer.Option(help="A folder for the runs; one that holds this sweep is gone on with")],
    seeds: Annotated[int, typer.Option(help="Runs of each setting, the recipe's seed and those after it")] = 1,
    on: Annotated[
        str | None, typer.Option(metavar="TARGET", help="Write an array of jobs: torchrun, slurm, k8s or skypilot")
    ] = None,
    collect: Annotated[bool, typer.Option("--collect", help="Run nothing: tell what there is")] = False,
    nodes: Nodes = 1,
    gpus: Gpus = 8,
    gpu: Gpu = "h100-80gb",
    fabric: Fabric = None,
    image: Image = None,
    storage: Storage = None,
    hours: Hours = 24.0,
) -> None:
    """Run a recipe with every combination of some settings, over seeds, and compare them."""
    from sightline.recipe.sweep import expand

    runs = expand(recipe, settings, seeds)
    from sightline.commands import sweep as command

    asked = command.Asked(nodes, gpus, gpu, fabric, image, None, storage, None, hours)
    raise typer.Exit(command.sweep(runs, out, on, asked, collect))
