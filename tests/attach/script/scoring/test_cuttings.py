"""What is cut out of a script's code around a call."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from sightline.attach.script.scoring.cuttings import cuttings

SCRIPT = """
def train(score, model, rows):
    for step in range(3):
        print("%d loss %.2f right %.2f" % (step, {told}))
"""


@pytest.mark.parametrize(
    ("told", "numbers"),
    [
        ("*score(model, rows)", {"score(model, rows)": (0.5, 0.25)}),
        ("score(model, rows)[0]", {"score(model, rows)[0]": 0.5}),
    ],
)
def test_numbers_that_are_told(tmp_path: Path, told: str, numbers: dict[str, Any]) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(told=told))
    code = runpy.run_path(str(tmp_path / "train.py"))["train"].__code__
    names = {"score": lambda model, rows: (0.5, 0.25), "model": None, "rows": [], "step": 1}
    made = [FunctionType(one, dict(names))() for one in cuttings(code, 4, names)]
    assert numbers in made
