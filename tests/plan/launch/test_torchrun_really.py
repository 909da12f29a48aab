"""The written script really run: two ranks on gloo, stopped by SIGTERM in the middle, and started once more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from sightline.plan.launch import torchrun
from sightline.plan.launch.job import Asked, job
from sightline.plan.launch.targets import write
from sightline.recipe import load
from tests.ports import free_port
from tests.train.tiny import COLOURS, RECIPE

STEPS = 400


@pytest.mark.slow
@pytest.mark.ddp
def test_the_script_starts_saves_and_goes_on(tmp_path: Path) -> None:
    lines = []
    for colour in COLOURS:
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{colour}.png")
        lines.append({"image": f"{colour}.png", "question": "what colour ?", "answer": colour})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"train": {"reader": "table", "path": str(tmp_path / "rows.jsonl")}}
    stage = RECIPE["stages"][0] | {"steps": STEPS, "batch": 4, "micro_batch": 1}
    content = RECIPE | {"data": data, "stages": [stage], "evaluate": {}, "log_every": 1, "workers": 1}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    made = job(load(str(tmp_path / "tiny.yaml")), Asked(gpus=2, run=str(tmp_path / "run")))
    write(torchrun.files(made), tmp_path / "job", force=False)

    with (tmp_path / "out.txt").open("w") as out:
        first = start(tmp_path, out)
        log = tmp_path / "run" / "metrics.jsonl"
        wait(lambda: log.is_file() and len(steps(log)) >= 5, first, tmp_path)
        first.send_signal(signal.SIGTERM)
        first.wait(timeout=240)
    told = (tmp_path / "out.txt").read_text()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    stopped = len(steps(log))
    assert facts["status"] == "interrupted" and 5 <= stopped < STEPS, told
    with (tmp_path / "out.txt").open("w") as out:
        assert start(tmp_path, out).wait(timeout=400) == 0, (tmp_path / "out.txt").read_text()
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"] == "finished" and facts["world_size"] == 2
    assert steps(log) == list(range(1, STEPS + 1))


def start(folder: Path, out: object) -> subprocess.Popen[str]:
    told = {"PYTHON": sys.executable, "HEAD": f"localhost:{free_port()}", "OMP_NUM_THREADS": "1"}
    command = ["bash", str(folder / "job" / "run.sh")]
    return subprocess.Popen(command, env={**os.environ, **told}, stdout=out, stderr=out, text=True)  # type: ignore[call-overload]


def steps(log: Path) -> list[int]:
    """Of each training event, in order."""
    events = (json.loads(line) for line in log.read_text().splitlines() if line.endswith("}"))
    return [event["step"] for event in events if event["event"] == "train"]


def wait(until: object, process: subprocess.Popen[str], folder: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, (folder / "out.txt").read_text()
        if until():  # type: ignore[operator]
            return
        time.sleep(0.2)
    raise AssertionError((folder / "out.txt").read_text())
