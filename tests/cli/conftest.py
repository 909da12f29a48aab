"""The command line, called as a process and in this one; a tiny recipe; a run of it made by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_model
from typer.testing import CliRunner, Result

from sightline.cli import app
from tests.evaluate import tiny

Call = Callable[..., Result]


@pytest.fixture
def call() -> Call:
    """Call the command line in this process."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def shell() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call the command line as users do: a process of its own."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sightline", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)

    return run


def conversation(image: str, question: str, answer: str, kind: str) -> dict[str, Any]:
    """One row as the messages reader takes it."""
    turns = [{"role": "user", "content": f"<image>{question}"}, {"role": "assistant", "content": answer}]
    return {"images": [image], "messages": turns, "type": kind}


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """A recipe with six pictures and twelve questions beside it."""
    tiny.pictures(tmp_path)
    rows = []
    for color in tiny.COLORS:
        rows.append(conversation(f"{color}.png", "what color is the whole picture ?", color, "color"))
        rows.append(conversation(f"{color}.png", "is it red ?", "yes" if color == "red" else "no", "yes/no"))
    (tmp_path / "test.json").write_text(json.dumps(rows), encoding="utf-8")
    content = tiny.recipe(group_by="type").model_dump(mode="json")
    content["data"]["test"]["path"] = str(tmp_path / "test.json")
    content |= {"device": "cpu", "precision": "fp32"}
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


@pytest.fixture
def run(recipe_file: Path) -> Path:
    """A run directory of the tiny recipe with untrained weights, made by the parts that training uses."""
    folder = recipe_file.parent / "run"
    built = tiny.model(tiny.questions(tiny.pictures(recipe_file.parent)))
    built.save_parts(folder / "encoder")
    latest = folder / "checkpoints" / "latest"
    latest.mkdir(parents=True)
    save_model(built.model, str(latest / "model.safetensors"))
    (folder / "recipe.yaml").write_text(recipe_file.read_text())
    return folder
