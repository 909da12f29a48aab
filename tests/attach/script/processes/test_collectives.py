"""Ranks of a script: calls that do not match are named before they are made, and a report outlives any rank."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sightline.attach.script.processes.collectives import _names
from sightline.attach.script.processes.ranks import Rank, report, share_of

HEAD = """
import datetime, os, signal, sys, torch, torch.distributed as dist
from torch import nn
dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=20))
rank, world = dist.get_rank(), dist.get_world_size()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(rank)
def learn():
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,))).backward()
    for p in model.parameters():
        dist.all_reduce(p.grad)
        p.grad /= world
    optimizer.step()
"""
HONEST = """
alone = [dist.new_group([r]) for r in range(world)]
both = dist.new_group([0, 1])
for number in range(12):
    learn()
    if rank == 0:  # by itself, in a group of its own
        dist.all_reduce(torch.ones(5), group=alone[0])
        dist.barrier(group=alone[0])
    sizes = [None] * world
    dist.all_gather_object(sizes, [rank] * (1 + 3 * rank))  # each gives an object of its own size
    work = dist.all_reduce(torch.ones(2 + number), group=both, async_op=True)
    dist.broadcast(torch.ones(3) * rank, src=number % world)
    work.wait()
    dist.gather(torch.ones(4), [torch.ones(4) for _ in range(world)] if rank == 0 else None, dst=0)
    dist.barrier()
    if number % world == rank:  # who has nothing of a kind gives zeros
        dist.all_reduce(torch.ones(3))
    else:
        dist.all_reduce(torch.zeros(3))
dist.destroy_process_group()
"""
WRONG = """
for number in range(12):
    learn()
    total = torch.ones(16)
    dist.all_reduce(total)
    if number == 6 and rank == 1:  # one rank takes another way
        dist.broadcast(total, src=0)
    else:
        dist.all_reduce(total)
dist.destroy_process_group()
"""
PARTED = """
for number in range(12):
    learn()
    if (number + rank) % 4 < 2:
        pictures = torch.ones(1)
        dist.all_reduce(pictures)
    else:
        texts = torch.ones(1)
        dist.all_reduce(texts)
dist.destroy_process_group()
"""
WRAPPED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(8, 3)
    def loss(self, x, y):
        return nn.functional.cross_entropy(self.body(x), y)
    forward = loss
del model
ddp = nn.parallel.DistributedDataParallel(Net())
optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
for number in range(60):
    optimizer.zero_grad()
    CALLED(torch.randn(16, 8), torch.randint(0, 3, (16,))).backward()
    optimizer.step()
dist.barrier()
del ddp, optimizer
dist.destroy_process_group()
"""
SPAWNED = """
import tempfile, time, torch, torch.distributed as dist
def work(rank, store):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    model = torch.nn.Linear(8, 3)
    time.sleep(rank)  # the first one is watched, and calls, long before the second is
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for number in range(12):
        model(torch.randn(16, 8)).square().mean().backward()
        total = torch.ones(1)
        if (number + rank) % 4 < 2:
            dist.all_reduce(total)
        else:
            dist.all_reduce(total)
        for p in model.parameters():
            dist.all_reduce(p.grad)
        optimizer.step()
        optimizer.zero_grad()
    dist.barrier()
    dist.destroy_process_group()
if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (tempfile.mktemp(),), nprocs=2)
"""
KILLED = """
if rank == 1:
    model[0].requires_grad_(False)
    for p in model[0].parameters():
        p.grad = torch.ones_like(p)
for number in range(30):
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,))).backward()
    optimizer.step()
if rank == 1:
    import time; time.sleep(1)
dist.barrier() if rank == 1 else os.kill(os.getpid(), signal.SIGKILL)
"""


def launched(text: str, folder: Path) -> tuple[int, dict[str, Any], str]:
    (folder / "train.py").write_text(HEAD + text)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ours = ["-m", "sightline", "run", "--findings", "told.json", "train.py"]
    done = subprocess.run([*launch, *ours], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, json.loads((folder / "told.json").read_text()), done.stderr


@pytest.mark.slow
@pytest.mark.ddp
def test_ranks_that_call_the_same_in_their_own_ways(tmp_path: Path) -> None:
    status, told, said = launched(HONEST, tmp_path)
    assert status == 0 and told["run"]["status"] == 0 and told["run"]["problems"] == [], said
    assert [f for f in told["findings"] if f["severity"] != "note"] == []


@pytest.mark.slow
@pytest.mark.ddp
def test_ranks_that_call_different_things(tmp_path: Path) -> None:
    _, told, said = launched(WRONG, tmp_path)
    (found,) = (f for f in told["findings"] if f["code"] == "D3")
    assert "calls broadcast of 16 torch.float32" in found["message"] and "calls all_reduce of 16" in found["message"]
    assert found["step"] == 7 and "error D3" in said


@pytest.mark.slow
@pytest.mark.ddp
def test_ranks_that_add_up_different_things(tmp_path: Path) -> None:
    _, told, said = launched(PARTED, tmp_path)
    (found,) = (f for f in told["findings"] if f["code"] == "D3")
    first, second = (PARTED.splitlines().index(line) for line in PARTED.splitlines() if "all_reduce" in line)
    lines = {len(HEAD.splitlines()) + place + 1 for place in (first, second)}
    assert "is called at different places" in found["message"] and found["severity"] == "warning", said
    assert {int(number) for number in re.findall(r"train.py:(\d+)", found["message"])} == lines


@pytest.mark.slow
@pytest.mark.ddp
def test_ranks_that_are_watched_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SPAWNED)
    ours = [sys.executable, "-m", "sightline", "run", "--findings", "told.json", "train.py"]
    done = subprocess.run(ours, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    told = json.loads((tmp_path / "told.json").read_text())
    assert "D3" in {found["code"] for found in told["findings"]}, done.stderr


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(
    ("called", "codes"), [("ddp.module.loss", {"D1"}), pytest.param("ddp", set(), marks=pytest.mark.slow)]
)
def test_a_method_that_goes_past_the_wrapper(called: str, codes: set[str], tmp_path: Path) -> None:
    _, told, said = launched(WRAPPED.replace("CALLED", called), tmp_path)
    assert {found["code"] for found in told["findings"] if found["severity"] != "note"} == codes, said


@pytest.mark.slow
@pytest.mark.ddp
def test_what_was_found_is_told_though_rank_0_is_killed(tmp_path: Path) -> None:
    status, told, said = launched(KILLED, tmp_path)
    assert status != 0 and told["run"]["status"] is None
    assert {f["code"] for f in told["findings"]} & {"T1", "T2"}, said


def test_what_sharded_training_calls_is_noted() -> None:
    """FSDP of torch 2.13 gathers and scatters by functions that earlier versions do not have."""
    pytest.importorskip("torch.distributed.fsdp._fully_shard")
    from torch.distributed.fsdp._fully_shard import _fsdp_collectives

    called = set(re.findall(r"dist\.((?:all|reduce)_\w+)\(", inspect.getsource(_fsdp_collectives)))
    assert called and called <= set(_names())


# --- the report ---------------------------------------------------------------------------------------------------


def verdicts(*codes: str) -> dict[str, Any]:
    found = [{"check": code.lower(), "code": code, "severity": "error"} for code in codes]
    rest = [{"check": code.lower(), "code": code} for code in ("A1", "B1", "C1") if code not in codes]
    return {"not_run": rest, "findings": found, "passed": [], "allowed": []}


def facts(rank: int, status: int | None) -> dict[str, Any]:
    return {"rank": rank, "status": status, "ended": time.time()}


def test_a_report_exists_whoever_dies(tmp_path: Path) -> None:
    file, began = tmp_path / "f.json", time.time() - 1
    zero, one = Rank(0, 2), Rank(1, 2)
    report(verdicts("B1"), facts(1, None), file, one, began)  # rank 0 has written nothing yet, and is killed
    told = json.loads(file.read_text())
    assert [(f["code"], f["rank"]) for f in told["findings"]] == [("B1", 1)] and told["run"]["status"] is None
    report(verdicts("A1"), facts(0, None), file, zero, began)
    told = json.loads(file.read_text())
    assert [f["code"] for f in told["findings"]] == ["A1", "B1"] and told["run"]["rank"] == 0
    report(verdicts("B1", "C1"), facts(1, 1), file, one, began)  # rank 0 is killed here
    told = json.loads(file.read_text())
    assert [f["code"] for f in told["findings"]] == ["A1", "B1", "C1"] and not told["not_run"]
    whole, silent = report(verdicts("A1"), facts(0, 0), file, zero, began)
    assert [f["code"] for f in whole["findings"]] == ["A1", "B1", "C1"] and silent == []
    assert json.loads(file.read_text())["run"]["status"] == 0


def test_what_an_earlier_run_left_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "f.json"
    report(verdicts("B1"), facts(1, 0), file, Rank(1, 2), time.time() - 1)
    later = time.time() + 1
    whole, _ = report(verdicts("A1"), facts(0, None), file, Rank(0, 2), later)
    assert [f["code"] for f in whole["findings"]] == ["A1"]
    share_of(file, 1).write_text("not ours")
    whole, _ = report(verdicts("A1"), facts(0, None), file, Rank(0, 2), 0.0)
    assert [f["code"] for f in whole["findings"]] == ["A1"]
