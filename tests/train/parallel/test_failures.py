"""Ranks that are killed or stand still in the middle of a run: the others say so and end, and the run goes on exactly.

Real processes, real signals. Slow: a rank counts as gone after seconds of silence, and here again and again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from sightline.recipe.read import to_yaml
from sightline.recipe.schema import Recipe
from sightline.train.run import resume, train
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.parallel.runs import losses, on_processes, recipe, table
from tests.train.tiny import RECIPE

pytestmark = [pytest.mark.slow, pytest.mark.ddp]
STEPS, EVERY, WORLD = 300, 20, 3


def long(folder: Path, kind: str = "ddp", timeout: float = 60.0, guard: bool = False, **stage: Any) -> Recipe:
    """A run that is saved now and then, long enough to be killed in its middle."""
    stage = {"steps": STEPS, "batch": 6, "validate_every": None} | stage
    parallel = {"kind": kind, "timeout": timeout}
    more = {"checkpoints": {"every": EVERY}, "evaluate": {}, "guard": {"on": guard}}
    return recipe(table(folder), parallel=parallel, stage=stage, **more)


def command(run: Recipe, folder: Path) -> list[str]:
    (folder / "recipe.yaml").write_text(to_yaml(run))
    return ["-m", "sightline", "train", str(folder / "recipe.yaml"), "--out", str(folder / "run")]


def started(folder: Path, run: Recipe) -> list[subprocess.Popen[str]]:
    """Each rank's process, without a launcher."""
    ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = []
    for rank in range(WORLD):
        own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORLD), "LOCAL_WORLD_SIZE": str(WORLD)}
        with (folder / f"rank-{rank}.txt").open("w") as out:
            line = [sys.executable, *command(run, folder)]
            processes.append(subprocess.Popen(line, env={**os.environ, **own, **ports}, stdout=out, stderr=out))
    return processes


def wait(until: Callable[[], bool], told: Callable[[], str], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end, told()
        time.sleep(0.02)


def done(run: Path) -> int:
    """Steps that the run has logged."""
    log = run / "metrics.jsonl"
    return log.read_text().count('"event": "train"') if log.is_file() else 0


@pytest.mark.parametrize(("number", "victim"), [("KILL", 1), ("KILL", 0), ("STOP", 1), ("STOP", 0)])
def test_a_lost_rank_is_named_by_one_of_the_others(tmp_path: Path, number: str, victim: int) -> None:
    processes = started(tmp_path, long(tmp_path, timeout=40.0, guard=victim == 0))  # the guard talks to the others, too
    told = lambda: "\n".join((tmp_path / f"rank-{rank}.txt").read_text() for rank in range(WORLD))  # noqa: E731
    wait(lambda: done(tmp_path / "run") >= EVERY + 10, told)
    try:
        processes[victim].send_signal(getattr(signal, f"SIG{number}"))
        left = [rank for rank in range(WORLD) if rank != victim]
        assert [processes[rank].wait(timeout=240) for rank in left] == [2, 2], told()
    finally:
        for process in processes:
            process.kill()
            process.wait()  # its lock on the run's directory goes with it
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"] == "failed" and f"rank {victim} (" in facts["error"] and facts["finished"]
    assert "does not answer any more" in facts["error"] and f"--resume {tmp_path / 'run'}" in facts["error"]
    assert (tmp_path / f"rank-{left[0]}.txt").read_text().count("error: ") == 1
    assert "error" not in (tmp_path / f"rank-{left[1]}.txt").read_text() and "Traceback" not in told()
    alone = resume(tmp_path / "run")  # another number of ranks goes on, and nothing saved was torn
    assert json.loads((alone / "run.json").read_text())["status"] == "finished" and len(losses(alone)) == STEPS


def judging(rank: int, port: int, run: Recipe, folder: str) -> None:
    """A rank whose evaluation takes longer than an exchange may."""
    import sightline.train.run as running

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running.evaluate = lambda *_, **__: time.sleep(25)  # type: ignore[assignment, return-value]
    train(run, Path(folder))


def test_ranks_wait_for_one_that_judges_longer_than_the_timeout(tmp_path: Path) -> None:
    first = RECIPE["stages"][0] | {"steps": 2, "batch": 4, "micro_batch": 1}
    stages = [first | {"name": name} for name in ("see", "tell")]
    asked = {"evaluate_after": {"see": {"data": "train"}}, "evaluate": {"data": "train"}}
    run = recipe(table(tmp_path), parallel={"kind": "ddp", "timeout": 12.0}, stages=stages, **asked)
    spawn(judging, (free_port(), run, str(tmp_path / "run")), nprocs=2)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["status"] == "finished" and facts["time"]["evaluation"] >= 50


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_torchrun_goes_on_by_itself_with_the_losses_of_a_run_that_never_stopped(tmp_path: Path, kind: str) -> None:
    whole = tmp_path / "whole"
    run = long(tmp_path, kind, batch=4)
    on_processes(2, {whole: run})
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    line = [sys.executable, *launcher, f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-backend=c10d"]
    told = tmp_path / "told.txt"
    with told.open("w") as out:
        process = subprocess.Popen([*line, *command(run, tmp_path)], stdout=out, stderr=out)
    wait(lambda: done(tmp_path / "run") >= EVERY + 10, told.read_text)
    ranks = [each for each in psutil.Process(process.pid).children() if each.environ().get("RANK") == "1"]
    assert len(ranks) == 1, told.read_text()
    stopped = done(tmp_path / "run")
    ranks[0].kill()
    assert process.wait(timeout=400) == 0, told.read_text()
    assert stopped < STEPS and "rank 1 (" in told.read_text() and "torchrun starts all ranks anew" in told.read_text()
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["event"] == "train"] == list(range(1, STEPS + 1))
    assert losses(tmp_path / "run") == losses(whole)
