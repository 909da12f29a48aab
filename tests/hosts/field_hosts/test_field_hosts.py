"""Scripts of strangers on the libraries that own loops, each with one fault that an argument plants: what is found?

The scripts were written before the guard was looked at. They run through `sightline run`, as their users would run
them; the name of a file begins with the check that must find its fault.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import HF, Forks
from tests.ports import free_port

SCRIPTS = sorted((Path(__file__).parent / "scripts").glob("*.py"))
QUICK = {"p3_loss_scale"}
RANKS = {"d1_own_all_reduce"}
SECONDS = 240
PAIRS = [
    pytest.param(script, faulty, id=f"{script.stem} {'faulty' if faulty else 'clean'}", marks=marks)
    for script in SCRIPTS
    for faulty in (True, False)
    for marks in ([] if script.stem in QUICK else [pytest.mark.slow],)
]


@pytest.mark.parametrize(("script", "faulty"), PAIRS)
def test_scripts_of_strangers(script: Path, faulty: bool, tmp_path: Path, forks: Forks) -> None:
    told = tmp_path / "told.json"
    watched = ["run", "--findings", str(told), str(script), *(["faulty"] if faulty else [])]
    if script.stem in RANKS:
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
        command = [sys.executable, *launcher, "-m", "sightline", *watched]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, check=False)
        assert run.returncode == 0, run.stderr[-2000:]
    else:
        forks.run("sightline", *watched, cwd=tmp_path, knows=HF)
    found = [f for f in json.loads(told.read_text())["findings"] if f["severity"] != "note"]
    codes = {f["code"] for f in found}  # a fault may show its consequences too
    assert script.stem.partition("_")[0].upper() in codes if faulty else not codes, [f["message"] for f in found]
