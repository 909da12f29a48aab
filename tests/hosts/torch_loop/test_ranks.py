"""D1-D3 and I3 through the door, with two real gloo processes that never hear of each other's guard."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import TORCH, Forks

SCRIPT = Path(__file__).with_name("ranks_script.py")
MINE = {"D1", "D2", "D3", "I3"}


def codes(forks: Forks, fault: str, folder: Path) -> dict[str, str]:
    """Code -> severity of what was found on any rank; all of `MINE` that could look have looked."""
    forks.run(str(SCRIPT), fault, str(folder), cwd=folder, knows=(*TORCH, "sightline.attach.torch_loop"), check=False)
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
def test_two_processes(fault: str, found: dict[str, str], tmp_path: Path, forks: Forks) -> None:
    assert codes(forks, fault, tmp_path) == found
