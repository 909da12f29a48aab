"""D1-D3 and I3 through the door, with two real gloo processes that never hear of each other's guard."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("ranks_script.py")
MINE = {"D1", "D2", "D3", "I3"}


def codes(fault: str, folder: Path) -> dict[str, str]:
    """Code -> severity of what was found on any rank; all of `MINE` that could look have looked."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, str(SCRIPT), fault, str(folder)], env=env, timeout=120, capture_output=True)
    records = json.loads((folder / "records.json").read_text(encoding="utf-8"))
    return {r["code"]: r["severity"] for r in records if r["kind"] == "finding"}


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        ("none", {}),
        ("text-only", {"D3": "error"}),
        pytest.param("same data", {"D2": "error"}, marks=pytest.mark.slow),
        pytest.param("text-only, unused are found", {}, marks=pytest.mark.slow),
        pytest.param("clipped on one rank", {"D1": "error"}, marks=pytest.mark.slow),
        pytest.param("wrapper bypassed", {"D1": "warning"}, marks=pytest.mark.slow),
        pytest.param("epoch not set", {"I3": "warning"}, marks=pytest.mark.slow),
    ],
)
def test_two_processes(fault: str, found: dict[str, str], tmp_path: Path) -> None:
    assert codes(fault, tmp_path) == found
