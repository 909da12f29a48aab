"""D1 to D3 through each host's door, with two real gloo processes: torchrun starts them, and DDP joins them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hosts.planting import loud
from tests.hosts.shared.ranks import HOSTS

ROOT = Path(__file__).parents[3]
SECONDS = 150.0  # ranks that do not call the same collectives may wait for each other


def launched(folder: Path, host: str, faults: tuple[str, ...]) -> subprocess.Popen[bytes]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(Path(__file__).with_name("ranks.py")), host, str(folder), *faults]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*launch, *script], env=env, stdout=log, stderr=log, start_new_session=True)


def found(folder: Path) -> set[str]:
    file = folder / "found"
    return {line.split()[0] for line in file.read_text(encoding="utf-8").splitlines()} if file.exists() else set()


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("faults", [(), ("D1", "D2"), ("D3",)], ids=lambda faults: " and ".join(faults) or "none")
@pytest.mark.parametrize("host", HOSTS)
def test_two_ranks(host: str, faults: tuple[str, ...], tmp_path: Path) -> None:
    ranks, until = launched(tmp_path, host, faults), time.monotonic() + SECONDS
    try:
        while ranks.poll() is None and time.monotonic() < until and not (faults and found(tmp_path) >= set(faults)):
            time.sleep(0.2)
    finally:
        if ranks.poll() is None:  # ranks that wait for each other hear nothing else, and torchrun ends after them
            for file in tmp_path.glob("pid*"):
                os.kill(int(file.read_text(encoding="utf-8")), signal.SIGKILL)
            ranks.wait(60)
    log = (tmp_path / "log").read_text(encoding="utf-8", errors="replace")[-4000:]
    assert found(tmp_path) == set(faults), log
    if not faults:
        records = json.loads((tmp_path / "records.json").read_text(encoding="utf-8"))
        assert loud(records) == []
        kinds = {r["code"]: r["kind"] for r in records}
        assert [kinds[code] for code in ("D1", "D2", "D3")] == ["passed"] * 3
