"""`sightline run SCRIPT` beside `python SCRIPT`: the same output, errors, status and numbers, and findings too."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Forks

SAID = "sightline: "  # begins everything that we say


@dataclass(frozen=True)
class Pair:
    """One script, run by Python and by us. `said`: our own words; `told`: the file of findings."""

    plain: subprocess.CompletedProcess[str]
    watched: subprocess.CompletedProcess[str]
    said: str
    told: dict[str, Any]

    def alike(self) -> None:
        assert self.watched.stdout == self.plain.stdout
        assert self.watched.returncode == self.plain.returncode
        assert self.plain.stderr in self.watched.stderr

    @property
    def codes(self) -> list[str]:
        return [finding["code"] for finding in self.told["findings"]]


Ended = subprocess.CompletedProcess[str]
Both = Callable[..., Pair]


@pytest.fixture
def both(tmp_path: Path) -> Both:
    """A script in processes that are begun as its user begins them."""

    def run(text: str, *arguments: str, ours: tuple[str, ...] = (), stdin: str = "") -> Pair:
        (tmp_path / "train.py").write_text(text, encoding="utf-8")
        file = tmp_path / "told.json"
        command = [sys.executable, "-m", "sightline", "run", "--findings", str(file), *ours, "train.py"]
        options: dict[str, Any] = {"cwd": tmp_path, "input": stdin, "capture_output": True, "text": True}
        plain = subprocess.run([sys.executable, "train.py", *arguments], check=False, **options)
        watched = subprocess.run([*command, *arguments], check=False, **options)
        return _pair(plain, watched, file)

    return run


@pytest.fixture
def forked(tmp_path: Path, forks: Forks) -> Both:
    """A script that does not ask how its process began."""

    def run(text: str, *arguments: str, ours: tuple[str, ...] = ()) -> Pair:
        (tmp_path / "train.py").write_text(text, encoding="utf-8")
        file, script = tmp_path / "told.json", ("train.py", *arguments)
        plain = forks.run(*script, cwd=tmp_path, check=False)
        watched = forks.run("sightline", "run", "--findings", str(file), *ours, *script, cwd=tmp_path, check=False)
        return _pair(plain, watched, file)

    return run


def _pair(plain: Ended, watched: Ended, file: Path) -> Pair:
    start = watched.stderr.find(SAID)
    return Pair(plain, watched, watched.stderr[start:] if start >= 0 else "", json.loads(file.read_text()))


ENDS = {
    "status": "import sys\nprint('x')\nsys.exit(7)\n",
    "status in words": "import sys\nsys.exit('bye')\n",
    "syntax error": "x = 1\ndef f(:\n    pass\n",
    "chained errors": "def f(n):\n    try:\n        1 / n\n    except ZeroDivisionError as e:\n"
    "        raise KeyError('no') from e\nf(0)\n",
    "own excepthook": "import sys\nsys.excepthook = lambda kind, error, trace: print('HOOK', kind, error)\n1 / 0\n",
    "failing excepthook": "import sys\ndef hook(*error):\n    return [][1]\nsys.excepthook = hook\n1 / 0\n",
    "exit handler": "import atexit\natexit.register(print, 'last words')\nprint('first')\n",
    "its own world": "import sys, os\nprint(sys.argv, sys.path[0], os.getcwd(), sorted(globals()))\n"
    "print(__file__, __spec__, __package__, sys.modules['__main__'].__dict__ is globals(), sys.excepthook)\n",
    "standard input": "import sys\nprint(input(), sys.stdin.read())\n",
    "bytes and os._exit": "import os, sys\nsys.stdout.buffer.write(b'\\xc3\\xa4')\nsys.stdout.flush()\nos._exit(9)\n",
}


@pytest.mark.parametrize("text", ENDS.values(), ids=ENDS)
def test_a_script_without_torch_runs_untouched(text: str, both: Both) -> None:
    pair = both(text, "--strict", "a b", "-h", stdin="one\ntwo\n")
    pair.alike()
    assert pair.watched.stderr.removesuffix(pair.said) == pair.plain.stderr
    assert pair.said == "sightline: the script did not import torch: nothing was watched\n"
    assert pair.told["findings"] == [] and pair.told["run"]["status"] == pair.plain.returncode


POOLS = """
import multiprocessing as mp, pickle
class Thing: pass
def square(x): return x * x
if __name__ == "__main__":
    for kind in ("fork", "spawn"):
        with mp.get_context(kind).Pool(2) as pool:
            print(pool.map(square, range(4)))
    print(type(pickle.loads(pickle.dumps(Thing()))))
"""


def test_processes_of_its_own(both: Both) -> None:
    both(POOLS).alike()


CLEAN = """
import copy, io, pickle, random, sys, threading
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

def say(name, model):
    print(name, sum(p.double().sum().item() for p in model.parameters()).hex(), torch.rand(1).item().hex())

class Rows(Dataset):
    def __len__(self): return 48
    def __getitem__(self, i): return torch.randn(4) + i % 3, i % 3, np.random.rand(), random.random()

def workers():
    model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.BatchNorm1d(16), nn.Linear(16, 3))
    optimizer, loss = torch.optim.AdamW(model.parameters(), lr=0.01), nn.CrossEntropyLoss()
    loader = DataLoader(Rows(), 8, shuffle=True, num_workers=2)
    for _ in range(2):
        model.train()
        for x, y, a, b in loader:
            optimizer.zero_grad(); loss(model(x), y).backward(); optimizer.step()
        model.eval()
        with torch.no_grad():
            print(model(x).argmax(1).tolist(), a[0].item(), b[0].item())
    say("workers", model)

def gan():
    G = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    D = nn.Sequential(nn.Linear(2, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    g, d, loss = torch.optim.Adam(G.parameters()), torch.optim.Adam(D.parameters()), nn.BCEWithLogitsLoss()
    for _ in range(20):
        D.requires_grad_(True)
        D.zero_grad()
        fake = G(torch.randn(16, 4))
        loss(D(torch.randn(16, 2) + 1), torch.ones(16, 1)).backward()
        loss(D(fake.detach()), torch.zeros(16, 1)).backward()
        d.step()
        D.requires_grad_(False)
        G.zero_grad()
        loss(D(fake), torch.ones(16, 1)).backward()
        g.step()
    say("gan", nn.ModuleList([G, D]))

def pair():
    encoder, decoder = nn.Sequential(nn.Linear(16, 8), nn.Tanh()), nn.Linear(8, 16)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()])
    x = torch.randn(32, 16)
    for _ in range(12):
        optimizer.zero_grad(); F.mse_loss(decoder(encoder(x)), x).backward(); optimizer.step()
    say("pair", decoder)

def copies():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    mean = torch.optim.swa_utils.AveragedModel(model)
    x, y = torch.randn(16, 4), torch.randint(0, 3, (16,))
    for _ in range(6):
        optimizer.zero_grad(); F.cross_entropy(model(x), y).backward(); optimizer.step(); mean.update_parameters(model)
        best, file = copy.deepcopy(model), io.BytesIO()
        torch.save(model, file)
    scripted, traced = torch.jit.script(model), torch.jit.trace(model, x)
    print("sightline" in str(file.getvalue()), torch.equal(best(x), scripted(x)), torch.equal(traced(x), best(x)))
    optimizer.zero_grad(); F.cross_entropy(model(x), y).backward(); optimizer.step()
    say("copies", model)

def closure():
    image, features = torch.rand(1, 3, 8, 8, requires_grad=True), nn.Conv2d(3, 4, 3)
    goal, optimizer = features(torch.rand(1, 3, 8, 8)).detach(), torch.optim.LBFGS([image])
    def again():
        optimizer.zero_grad(); loss = F.mse_loss(features(image), goal); loss.backward(); return loss
    for _ in range(4): optimizer.step(again)
    print("closure", image.double().sum().item().hex())

def thread():
    model = nn.Linear(4, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(9):
        optimizer.zero_grad(); model(torch.randn(2, 4)).square().mean().backward(); optimizer.step()
    say("thread", model)

def main():
    for work in (workers, gan, pair, copies, closure):
        torch.manual_seed(3); np.random.seed(3); random.seed(3)
        work()
    threading.Thread(target=thread).start()

if __name__ == "__main__":
    main()
"""


def test_clean_loops_to_the_bit(forked: Both) -> None:
    pair = forked(CLEAN)
    pair.alike()
    assert (pair.told["findings"], pair.told["run"]["problems"]) == ([], [])
    watched = [(model["name"], model["steps"]) for model in pair.told["run"]["models"]]
    steps = {"Sequential 1": 12, "Sequential 2": 20, "Sequential 3": 20, "Sequential + Linear": 12}
    assert dict(watched[:4]) == steps
    assert watched[4:] == [("Sequential 4", 7), ("Linear", 9)]
    passed = {verdict["check"] for verdict in pair.told["passed"]}
    assert {"gradients-not-zeroed", "parameters-unmoved", "evaluation-in-train-mode"} <= passed


FAULTY = """
import os, sys, time, torch
from torch import nn
torch.manual_seed(0)
def train():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    if sys.argv[1] == "stale":
        model = nn.Linear(4, 3)
    for step in range(12):
        if sys.argv[1] == "stale":
            optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(torch.randn(8, 4)), torch.randint(0, 3, (8,)))
        loss.backward()
        optimizer.step()
    print(loss.item().hex(), flush=True)
train()
if sys.argv[1] == "raise":
    raise RuntimeError("late")
if sys.argv[1] == "leave":
    os._exit(5)
if sys.argv[1] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("how", "code", "status"),
    [("raise", "T2", 1), ("leave", "T2", 5), ("stale", "T1", 0)],
    ids=["raise", "leave", "stale"],
)
def test_a_fault_is_told_however_the_script_ends(how: str, code: str, status: int, both: Both, forked: Both) -> None:
    pair = (both if how == "raise" else forked)(FAULTY, how)
    pair.alike()
    assert (pair.codes, pair.watched.returncode) == ([code], status)
    finding = pair.told["findings"][0]
    assert {"check", "code", "severity", "message", "step", "evidence", "fix"} <= finding.keys()
    assert all({"check", "code", "why"} <= verdict.keys() for verdict in pair.told["not_run"])
    assert f"error {code}" in pair.said and finding["fix"] in pair.said


def test_strict(forked: Both) -> None:
    pair = forked(FAULTY, "", ours=("--strict",))
    assert pair.watched.stdout == pair.plain.stdout and pair.watched.returncode == 3
    assert pair.codes == ["T2"]


def test_interrupted(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(FAULTY)
    command = [sys.executable, "-m", "sightline", "run", "--findings", "told.json", "train.py", "wait"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    with subprocess.Popen(command, cwd=tmp_path, preexec_fn=heeds, **pipes) as process:
        assert process.stdout is not None and process.stdout.readline()
        time.sleep(0.2)
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=180)
    told = json.loads((tmp_path / "told.json").read_text())
    assert process.returncode == 130 and told["run"]["error"] == "KeyboardInterrupt: "
    assert [finding["code"] for finding in told["findings"]] == ["T2"]
    assert said.count("KeyboardInterrupt") == 1 and "sightline/attach" not in said and "T2" in said


RANKS = """
import sys, torch, torch.distributed as dist
from torch import nn
dist.init_process_group("gloo")
torch.manual_seed(0)
model = nn.parallel.DistributedDataParallel(nn.Linear(8, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
torch.manual_seed(dist.get_rank())
for _ in range(12):
    if sys.argv[1:]:
        optimizer.zero_grad()
    nn.functional.cross_entropy(model(torch.randn(16, 8)), torch.randint(0, 3, (16,))).backward()
    optimizer.step()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(
    "clean", [pytest.param(True, id="clean", marks=pytest.mark.slow), pytest.param(False, id="faulty")]
)  # `test_ranks_that_call_the_same_in_their_own_ways` is a clean run of ranks by default
def test_ranks_tell_once_and_only_the_first_answers(clean: bool, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(RANKS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ours = ["-m", "sightline", "run", "--strict", "--findings", "told.json", "train.py", *(["clean"] if clean else [])]
    done = subprocess.run([*launch, *ours], cwd=tmp_path, capture_output=True, text=True, check=False)
    told = json.loads((tmp_path / "told.json").read_text())
    assert [finding["code"] for finding in told["findings"]] == ([] if clean else ["T2"]), done.stderr
    assert (done.returncode == 0) is clean and told["run"]["problems"] == []
    assert done.stderr.count("sightline: watched Linear (12 steps)") == 1
    assert json.loads((tmp_path / "told.rank1.json").read_text())["run"]["rank"] == 1


COMPILED = """
import sys, torch
from torch import nn
torch.manual_seed(0)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)
    def forward(self, x):
        return self.last(torch.relu(self.first(x)))
wrapped = torch.compile(Net(), backend="eager", fullgraph=True)
in_place = Net()
in_place.compile(backend="eager", fullgraph=True)
@torch.compile(backend="eager")
def loss_of(model, x, y):
    return nn.functional.cross_entropy(model(x), y)
def train(model, compiled_loss):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(12):
        if sys.argv[1] == "clean":
            optimizer.zero_grad()
        x, y = torch.randn(16, 8), torch.randint(0, 3, (16,))
        loss = loss_of(model, x, y) if compiled_loss else nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
    print(loss.item().hex())
train(wrapped, False)
train(in_place, False)
train(Net(), True)
"""

LOOKS = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
model.eval()
with torch.no_grad():
    print(model(torch.ones(2, 4)).shape)
"""


@pytest.mark.parametrize("how", ["clean", "faulty"])
def test_compiled_models(how: str, forked: Both) -> None:
    pair = forked(COMPILED, how)
    pair.alike()
    assert pair.plain.returncode == 0, pair.plain.stderr
    assert set(pair.codes) == (set() if how == "clean" else {"T2"})
    assert pair.told["run"]["problems"] == []
    assert [model["steps"] for model in pair.told["run"]["models"]] == [12, 12, 12]


def test_a_script_that_never_trains(forked: Both) -> None:
    pair = forked(LOOKS)
    pair.alike()
    assert pair.told["findings"] == [] and pair.told["run"]["problems"] == []
    assert "no model was trained" in pair.said
    assert all("no model was trained" in verdict["why"] for verdict in pair.told["not_run"])
