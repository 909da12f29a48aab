"""`sightline run` of scripts that start processes: those that train are watched, the others cost and say nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Forks

RANKS = """
import os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

def work(rank, world, how):
    dist.init_process_group("gloo", f"file://{os.getcwd()}/{os.getppid()}", rank=rank, world_size=world)
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(rank)
    for step in range(12):
        if how != "faulty":
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,)))
        loss.backward()
        optimizer.step()
    with open(f"rank{rank}.txt", "w") as out:
        out.write(loss.item().hex())
    dist.barrier()  # torch may hang where a model of ranks outlives their group
    del model, optimizer, loss
    dist.destroy_process_group()

if __name__ == "__main__":
    mp.start_processes(work, args=(2, sys.argv[1]), nprocs=2, start_method=sys.argv[2])
    print(open("rank0.txt").read(), open("rank1.txt").read())
"""

ALONE = """
import sys, time, torch, torch.multiprocessing as mp
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Helper(mp.get_context("spawn").Process):
    def __init__(self, queue):
        super().__init__()
        self.queue = queue
    def run(self):
        self.queue.put(nn.Linear(2, 2).weight.numel())

def train(clears, ends):
    torch.manual_seed(0)
    model = nn.Linear(8, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(12):
        if clears:
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,)))
        loss.backward()
        optimizer.step()
    if ends == "raises":
        raise RuntimeError("late")
    if ends == "waits":
        open("ready", "w").close()
        time.sleep(600)

if __name__ == "__main__":
    spawn, fork = mp.get_context("spawn"), mp.get_context("fork")
    queue = spawn.Queue()
    helper = Helper(queue)
    helper.start()
    print(queue.get())
    helper.join()
    for (batch,) in DataLoader(TensorDataset(torch.arange(8.0)), 4, num_workers=1):
        print(batch.sum().item())
    for ends in ("returns", "raises"):
        child = fork.Process(target=train, args=(sys.argv[1] == "clean", ends))
        child.start()
        child.join()
        print(child.exitcode)
    import os
    child = fork.Process(target=train, args=(sys.argv[1] == "clean", "waits"))
    child.start()
    while not os.path.exists("ready"):
        time.sleep(0.05)
    child.terminate()
    child.join()
    os.remove("ready")
    print(child.exitcode)
"""


def _run(
    forks: Forks, tmp_path: Path, text: str, how: str, *ours: str, method: str = ""
) -> tuple[Any, Any, dict[str, Any]]:
    """Only the script's own process is forked for us: those that it starts are as they are."""
    (tmp_path / "train.py").write_text(text, encoding="utf-8")
    before = ("sightline", "run", "--findings", "told.json", *ours)
    plain, watched = (forks.run(*first, "train.py", how, method, cwd=tmp_path, check=False) for first in ((), before))
    return plain, watched, json.loads((tmp_path / "told.json").read_text())


@pytest.mark.ddp
@pytest.mark.parametrize(
    ("how", "method"),
    [
        ("clean", "fork"),
        pytest.param("faulty", "spawn", marks=pytest.mark.slow),
        pytest.param("clean", "spawn", marks=pytest.mark.slow),
        ("faulty", "fork"),
    ],
)
def test_started_ranks(how: str, method: str, tmp_path: Path, forks: Forks) -> None:
    plain, watched, told = _run(forks, tmp_path, RANKS, how, "--strict", method=method)
    assert watched.stdout == plain.stdout, watched.stderr
    assert (plain.returncode, watched.returncode) == (0, 0 if how == "clean" else 3)
    assert [finding["code"] for finding in told["findings"]] == ([] if how == "clean" else ["T2"])
    models = [(model["name"], model["steps"], model["rank"]) for model in told["run"]["models"]]
    assert models == [("Linear", 12, 0), ("Linear", 12, 1)] and told["run"]["problems"] == []
    passed = {verdict["check"] for verdict in told["passed"]}
    assert {"ranks-diverge", "ranks-see-the-same-data"} <= passed


@pytest.mark.slow
@pytest.mark.parametrize("how", ["clean", "faulty"])
def test_children_that_train_help_crash_and_are_ended(how: str, tmp_path: Path, forks: Forks) -> None:
    plain, watched, told = _run(forks, tmp_path, ALONE, how)
    assert watched.stdout == plain.stdout and watched.returncode == plain.returncode == 0, watched.stderr
    assert [finding["code"] for finding in told["findings"]] == ([] if how == "clean" else ["T2"])
    assert [model["steps"] for model in told["run"]["models"]][:2] == [12, 12]
    assert told["run"]["problems"] == [] and told["run"]["seen"] == "models were trained"


LAUNCHED = """
import sys, torch, torch.distributed as dist
from torch import nn
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(dist.get_rank())
for _ in range(12):
    if sys.argv[1] == "clean":
        optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,))).backward()
    optimizer.step()
open(f"rank{dist.get_rank()}.txt", "w").write(model.module.weight.sum().item().hex())
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("how", ["clean", "faulty"])
def test_a_launcher_as_the_script(how: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(LAUNCHED)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "train.py", how]
    ours = [*(["--findings", "told.json"] if how == "clean" else []), "--strict"]
    weights = []
    for before in ([], ["-m", "sightline", "run", *ours]):
        done = subprocess.run(
            [sys.executable, *before, *launch], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        weights.append([(tmp_path / f"rank{rank}.txt").read_text() for rank in (0, 1)])
    assert weights[0] == weights[1] and done.returncode == (0 if how == "clean" else 3), done.stderr
    assert done.stderr.count("sightline: watched Linear (12 steps)") == 1
    assert ("gradients-not-zeroed" in done.stderr) is (how == "faulty")
    if how == "clean":
        told = json.loads((tmp_path / "told.json").read_text())
        assert told["findings"] == [] and told["run"]["world"] == 2


ACCELERATED = """
import sys, torch
from accelerate import Accelerator
torch.manual_seed(0)
accelerator, model = Accelerator(cpu=True), torch.nn.Linear(8, 3)
model, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
for _ in range(12):
    if sys.argv[1] == "clean":
        optimizer.zero_grad()
    accelerator.backward(torch.nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,))))
    optimizer.step()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [pytest.param("clean", marks=pytest.mark.slow), "faulty"])
def test_the_launcher_of_accelerate_as_the_script(how: str, tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(ACCELERATED)
    launch = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "train.py", how)
    done = forks.run("sightline", "run", "--findings", "told.json", *launch, cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    assert [finding["code"] for finding in told["findings"]] == ([] if how == "clean" else ["T2"])
    assert done.stderr.count("sightline: watched Linear (12 steps)") == 1
