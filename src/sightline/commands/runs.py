"""A trained run, opened for use: its recipe, its model on the device at hand, its precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from transformers.utils import logging

from sightline.models.build import Built
from sightline.models.saved import load_run
from sightline.recipe.schema import Recipe
from sightline.train.parallel.ranks import pick_device
from sightline.train.precision import pick_precision


@dataclass(frozen=True, slots=True)
class Run:
    """A run and its model, on the device at hand and in evaluation mode."""

    recipe: Recipe
    built: Built
    precision: Literal["fp32", "bf16", "fp16"]


def open_run(folder: Path, recipe: Recipe) -> Run:
    """The run in `folder` with its latest weights. A run trained on a device that is not here runs on what is.

    Raises:
        UserError: the run has no checkpoint yet.
    """
    logging.disable_progress_bar()
    device = pick_device("auto")
    # A GPU's fp16 has no fast kernels on a CPU: there the run is read as "auto" would.
    only_gpus = recipe.precision in ("tf32", "fp16", "fp8")
    wanted = "auto" if only_gpus and device.type == "cpu" else recipe.precision
    built = load_run(folder)
    built.model.to(device)
    return Run(recipe, built, pick_precision(wanted, device).name)
