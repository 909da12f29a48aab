"""Two real gloo ranks that wait for each other for ever are told while they hang; long waits that end are not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("hanging_script.py")
LIMIT = 60.0  # seconds; a second of patience and two looks are enough on an idle machine


def told(fault: str, folder: Path) -> str:
    """What rank 0 was told, as soon as that is something, or once both ranks have ended."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [sys.executable, str(SCRIPT), fault, str(folder)], env=env, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        until, file = time.monotonic() + LIMIT, folder / "told.0"
        while time.monotonic() < until and not file.exists() and run.poll() is None:
            time.sleep(0.05)
        ended = [(folder / f"ended.{rank}").exists() for rank in (0, 1)]
        assert file.exists() or all(ended), ended
        return file.read_text() if file.exists() else ""
    finally:
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


@pytest.mark.parametrize(
    ("fault", "places"),
    [
        ("a branch", ("rank 0 in all_reduce", "rank 1 in all_gather")),
        pytest.param("one step more", ("rank 0 in backward", "rank 1 in barrier"), marks=pytest.mark.slow),
    ],
)
def test_a_hang_is_told_while_it_hangs(fault: str, places: tuple[str, str], tmp_path: Path) -> None:
    said = told(fault, tmp_path)
    assert said.startswith("D3 the run hangs") and all(place in said for place in places), said


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["rank 0 saves", *(pytest.param(f, marks=pytest.mark.slow) for f in ("rank 0 computes", "none"))]
)
def test_a_wait_that_ends_is_none(fault: str, tmp_path: Path) -> None:
    assert told(fault, tmp_path) == ""
