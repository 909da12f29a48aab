"""Whole runs of a tiny VLM by several real processes, joined over gloo."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe
from sightline.train.run import resume, train
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.tiny import COLOURS, RECIPE

STEPS = 20
ALL = {"vision": "all", "connector": "all", "language": "all"}
FROZEN = {"connector": "all", "language": "all"}  # vision frozen
ADAPTED = {"connector": "all", "language": "lora"}


def table(folder: Path) -> Path:
    """Rows with and without images, so that some rank meets a micro-batch of text alone; answers of unlike length."""
    lines = []
    for colour in COLOURS:
        Image.new("RGB", (16, 16), colour).save(folder / f"{colour}.png")
        lines.append({"image": f"{colour}.png", "question": "what colour ?", "answer": colour})
        lines.append({"image": None, "question": f"is {colour} a colour ?", "answer": f"yes {colour} is one"})
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(rows: Path, learn: Mapping[str, Any] = ALL, parallel: Any = "ddp", **changes: Any) -> Recipe:
    """Twenty steps of eight rows, one row a micro-batch, clipped and decayed, in fp32."""
    model = RECIPE["model"] | ({"lora": {"rank": 2, "dropout": 0.0}} if "lora" in learn.values() else {})
    stage = RECIPE["stages"][0] | {"learn": dict(learn), "steps": STEPS, "batch": 8, "micro_batch": 1}
    stage |= {"validate_every": 10, "optimizer": {"weight_decay": 0.1, "clip": 0.5}} | changes.pop("stage", {})
    content = RECIPE | {
        "model": model,
        "data": {"train": {"reader": "table", "path": str(rows)}},
        "stages": [stage],
        "evaluate": {"validation": "train"},
        "parallel": parallel,
        "guard": {"on": False},
    }
    return validate(content | changes, where="tiny")


def on_processes(world: int, runs: Mapping[Path, Recipe | None]) -> None:
    """Train each recipe into its folder, one after the other, on `world` processes; None: go on with what is there."""
    ports = [free_port() for _ in runs]
    spawn(_enter, (world, ports, dict(runs)), nprocs=world)


def _enter(rank: int, world: int, ports: list[int], runs: dict[Path, Recipe | None]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["LOCAL_WORLD_SIZE"] = str(world)
    for port, (folder, recipe) in zip(ports, runs.items(), strict=True):
        os.environ["MASTER_PORT"] = str(port)
        try:
            train(recipe, folder) if recipe is not None else resume(folder)
        except BaseException:
            traceback.print_exc()
            raise


def losses(run: Path, kind: str = "train") -> list[float]:
    """The logged losses of a run, one a step or one a validation."""
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == kind]
