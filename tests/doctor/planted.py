"""Real runs of a tiny VLM, well ones and such with a fault planted in them."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from sightline.models.composed import ComposedVLM
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe
from sightline.train.run import train
from tests.train.tiny import COLOURS, RECIPE

ODD_ROW = 37  # 1-based, in rows.jsonl
STEPS = 60
LONG = {"steps": 84, "lr": 1e-2, "schedule": {"kind": "constant"}}  # learned by half of it


def rows(folder: Path, *, odd: bool = False) -> Path:
    """Ninety-six questions that are soon learned; `odd`: one of them is answered by words of no meaning."""
    folder.mkdir(parents=True, exist_ok=True)
    for colour in COLOURS:
        Image.new("RGB", (16, 16), colour).save(folder / f"{colour}.png")
    lines = [
        {"image": f"{colour}.png", "question": f"is it {colour} ?", "answer": "yes it is"}
        for _ in range(16)
        for colour in COLOURS
    ]
    if odd:
        words = random.Random(0)
        lines[ODD_ROW - 1]["answer"] = " ".join(words.choice(("zq", "xv", "wk", "jj", "vx", "kq")) for _ in range(24))
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def recipe(path: Path, stage: dict[str, Any] | None = None, **changes: Any) -> Recipe:
    """Sixty steps of eight rows: an epoch is twelve steps."""
    usual = {"steps": STEPS, "batch": 8, "lr": 3e-3}
    content = RECIPE | {
        "data": {"train": {"reader": "table", "path": str(path)}},
        "stages": [RECIPE["stages"][0] | usual | (stage or {})],
        "guard": {"on": False},
        "log_every": 4,
        "log_layers": 10,
    }
    return validate(content | changes, where="tiny")


@contextmanager
def between_towers(change: Any) -> Iterator[None]:
    """Inside the block, `change` is done to what the connector gives the language tower."""
    real = ComposedVLM.connect
    ComposedVLM.connect = lambda self, features: change(real(self, features))  # type: ignore[method-assign]
    try:
        yield
    finally:
        ComposedVLM.connect = real  # type: ignore[method-assign]


def killed(content: Recipe, folder: Path, step: int) -> Path:
    """A run whose process is killed at `step`: nothing of it gets to say a word."""

    def at(event: dict[str, Any]) -> None:
        if event["global_step"] >= step:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        try:
            train(content, folder, listen=at)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    return folder


def back(folder: Path, seconds: float) -> None:
    """Make it that long ago that the run last wrote a line."""
    metrics = folder / "metrics.jsonl"
    then = metrics.stat().st_mtime - seconds
    os.utime(metrics, (then, then))
