"""`sightline run` on scripts that load what they saved: resumes that are whole or not, and what is no resume."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import Forks

pytestmark = pytest.mark.slow  # many settings of rules that quick tests prove in one

SCRIPT = """
import torch
from torch import nn


def kind(name):
    return type(name, (nn.Sequential,), {})(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 1))


def rows(seed):
    x = torch.randn(160, 6, generator=torch.Generator().manual_seed(seed))
    return [(part, part[:, :3].prod(1, keepdim=True)) for part in x.split(16)]


def parts(name, rate=3e-3):
    model = kind(name)
    opt = torch.optim.AdamW(model.parameters(), lr=rate)
    return model, opt, torch.optim.lr_scheduler.ExponentialLR(opt, 0.9)


def fit(model, opt, plan, data):
    for epoch in range(2):
        for x, y in data:
            opt.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            opt.step()
        plan.step()


def first(name, keep=("opt", "plan"), counted=True, frozen=0):
    model, opt, plan = parts(name)
    model[:frozen].requires_grad_(False)
    fit(model, opt, plan, rows(1))
    every = {"opt": opt.state_dict(), "plan": plan.state_dict()}
    state = {"model": model.state_dict(), **{one: every[one] for one in keep}}
    torch.save({**state, "epoch": 2} if counted else state, name + ".pt")
    return torch.load(name + ".pt")


def again(name, state, *loaded, rate=3e-3, data=1, without="none", then=lambda model, state: None):
    model, opt, plan = parts(name, rate)
    given = {key: value for key, value in state["model"].items() if not key.startswith(without)}
    model.load_state_dict(given, strict=without == "none")
    then(model, state["model"])
    if "opt" in loaded:
        opt.load_state_dict(state["opt"])
    if "plan" in loaded:
        plan.load_state_dict(state["plan"])
    fit(model, opt, plan, rows(data))


def drawn(model, opt, plan):
    x = torch.randn(16, 6)
    opt.zero_grad()
    nn.functional.mse_loss(model(x), x[:, :3].prod(1, keepdim=True)).backward()
    opt.step()
    plan.step()


torch.manual_seed(0)
# --- in one process
again("Whole", first("Whole"), "opt", "plan")
again("NoMoments", first("NoMoments"), "plan")
again("NoPlan", first("NoPlan"), "opt")
again("NeverSaved", first("NeverSaved", keep=()))
again("OtherRate", first("OtherRate"), rate=1e-3)
again("OtherData", first("OtherData"), data=2)
again("NoCount", first("NoCount", keep=(), counted=False))
again("NoHead", first("NoHead"), "opt", "plan", without="2.")
again("NewHead", first("NewHead"), without="2.")
again("Thawed", first("Thawed", frozen=1))
again("ThawedBare", first("ThawedBare", keep=(), frozen=1))
again("BareBody", first("BareBody", keep=()), without="2.")
again("InParts", first("InParts"), "opt", "plan", without="2.", then=lambda m, s: m[2].load_state_dict(
    {"weight": s["2.weight"], "bias": s["2.bias"]}))


def begun(name, kept="saved.pt"):
    state, one = torch.load(kept), parts(name)
    one[0].load_state_dict(state["model"])
    return state, list(one)


def counted(one, at):
    while at < 30:
        drawn(*one)
        at += 1


one = parts("First")
for _ in range(20):
    drawn(*one)
every = dict(zip(("model", "opt", "plan"), (part.state_dict() for part in one)))
torch.save({**every, "done": 20, "epoch": 2, "random": torch.get_rng_state()}, "saved.pt")

state, one = begun("CountsOn")
counted(one, state["done"])
state, one = begun("PlanAnew")
one[1].load_state_dict(state["opt"])
counted(one, state["done"])
state, one = begun("NextEpochs")
for epoch in range(state["epoch"], 4):
    for _ in range(10):
        drawn(*one)
state, one = begun("DrawsOn")
torch.set_rng_state(state["random"])
counted(one, 22)
state, one = begun("AllOfIt")
one[1].load_state_dict(state["opt"])
one[2].load_state_dict(state["plan"])
counted(one, state["done"])
state, one = begun("Tuned")
for epoch in range(2):
    for _ in range(8):
        drawn(*one)
state, one = begun("ByLoops")
one[2].load_state_dict(state["plan"])
for p, moments in zip(one[0].parameters(), state["opt"]["state"].values()):
    one[1].state[p] = {key: value.clone() for key, value in moments.items()}
counted(one, state["done"])
state, one = begun("OtherKind")
one[1] = torch.optim.RMSprop(one[0].parameters(), lr=3e-3)
one[2] = torch.optim.lr_scheduler.ExponentialLR(one[1], 0.9)
counted(one, state["done"])
state, one = begun("Farther")
one[2] = torch.optim.lr_scheduler.StepLR(one[1], 8)
one[1].load_state_dict(state["opt"])
counted(one, state["done"])

# --- in another: looking for models has its limit in each
def warm(step):
    return min(1.0, (step + 1) / 8) * (0.1 + max(0.0, 1 - step / 40))


def planned(name, rate=3e-3, rule=warm, make=torch.optim.AdamW):
    model = kind(name)
    opt = make(model.parameters(), lr=rate)
    return [model, opt, torch.optim.lr_scheduler.LambdaLR(opt, rule)]


def went(name, steps, *without, **made):
    one = planned(name, **made)
    for _ in range(steps):
        drawn(*one)
    every = {"model": one[0].state_dict(), "opt": one[1].state_dict(), "plan": one[2].state_dict(), "done": steps}
    torch.save({key: value for key, value in every.items() if key not in without}, name + ".pt")
    return one


def goes_on(name, kept, then=lambda one: None, at=None, **made):
    one, state = planned(name, **made), torch.load(kept + ".pt")
    one[0].load_state_dict(state["model"])
    if "opt" in state:
        one[1].load_state_dict(state["opt"])
    if "plan" in state:
        one[2].load_state_dict(state["plan"])
    then(one)
    done = state["done"] if at is None else at
    for done in range(done, done + 14):
        drawn(*one)


def placed(one, at=-1):
    one[2] = torch.optim.lr_scheduler.LambdaLR(one[1], warm, last_epoch=at)


went("HalfWay", 20, "plan")
went("AtTheEnd", 45, "plan")
goes_on("WarmAgain", "HalfWay")
goes_on("MadeAfter", "HalfWay", placed)
goes_on("Placed", "HalfWay", lambda one: placed(one, 20))
goes_on("Forward", "HalfWay", lambda one: [one[2].step() for _ in range(20)])
goes_on("OtherPlan", "HalfWay", rule=lambda step: 0.5 / (1 + step))
goes_on("Counting", "HalfWay", at=0)
goes_on("NewCycle", "AtTheEnd")
every = torch.load("HalfWay.pt")["done"]
goes_on("FromHere", "HalfWay", rule=lambda step: warm(every + step))

went("Planned", 20, "opt")
bare = went("Bare", 20, "opt", "plan")
went("NoState", 20, "opt", "plan", make=torch.optim.SGD)
goes_on("MovesOn", "Planned")
goes_on("StepsOn", "Bare")
goes_on("Once", "Bare", at=0)
goes_on("Slower", "Bare", rate=1e-3)
goes_on("Descends", "NoState", make=torch.optim.SGD)
bare[1:] = torch.optim.AdamW(bare[0].parameters(), lr=3e-3), None
bare[2] = torch.optim.lr_scheduler.ExponentialLR(bare[1], 0.9)
bare[0].load_state_dict(torch.load("Bare.pt")["model"])
for done in range(20, 34):
    drawn(bare[0], bare[1], bare[2])

judged = kind("Judged")
judged.load_state_dict(first("Judged")["model"])
with torch.no_grad():
    print(judged(rows(3)[0][0]).mean())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            1,
            {
                ("NoMoments", "K2", "error"),
                ("NoPlan", "K2", "error"),
                ("NeverSaved", "K2", "warning"),
                ("NoHead", "K2", "error"),
                *((name, "K2", "error") for name in ("CountsOn", "PlanAnew", "NextEpochs", "DrawsOn")),
            },
        ),
        pytest.param(
            2,
            {
                *((name, "K2", "error") for name in ("WarmAgain", "MadeAfter")),
                *((name, "K2", "warning") for name in ("MovesOn", "StepsOn")),
            },
            marks=pytest.mark.slow,
        ),
    ],
    ids=["epochs and counts", "plans"],
)
def test_which_loads_are_resumes(part: int, expected: set[tuple[str, str, str]], tmp_path: Path, forks: Forks) -> None:
    scripts = SCRIPT.split("# ---")
    (tmp_path / "train.py").write_text(f"{scripts[0]}# ---{scripts[part]}")
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    assert {(one["model"].split()[0], one["code"], one["severity"]) for one in told["findings"]} == expected
    assert not told["run"]["problems"]


RELOADED = """
import torch
from torch import nn


def kind(name):
    return type(name, (nn.Sequential,), {})(nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 1))


def fit(model, steps=24):
    opt = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        x = torch.randn(16, 6)
        opt.zero_grad()
        nn.functional.mse_loss(model(x), x[:, :1]).backward()
        opt.step()
    return model


def saved(name, keep=lambda key: True):
    model = fit(kind(name))
    torch.save({key: value for key, value in model.state_dict().items() if keep(key)}, name + ".pt")
    return model, torch.load(name + ".pt")


def judged(model):
    model.eval()
    with torch.no_grad():
        print(model(torch.randn(4, 6)).mean())


body = lambda key: not key.startswith("2.")
torch.manual_seed(0)
for name, keep in (("Lost", body), ("Whole", lambda key: True), ("NewHead", body), ("TwoFiles", body)):
    model, state = saved(name, keep)
    fresh = kind(name)
    fresh.load_state_dict(state, strict=False)
    if name == "NewHead":
        fit(fresh)
    if name == "TwoFiles":
        fresh[2].load_state_dict(model[2].state_dict())
    judged(fresh)


for name in ("Wrapped", "Inner", "Stripped"):
    model = fit(kind(name))
    wrapped = {"net." + key: value for key, value in model.state_dict().items()}
    fresh = nn.ModuleDict({"net": kind(name), "more": nn.Linear(1, 1)}) if name == "Inner" else kind(name)
    fresh.load_state_dict(model.state_dict() if name == "Inner" else wrapped, strict=False)
    if name == "Stripped":
        fresh.load_state_dict({key[4:]: value for key, value in wrapped.items()})
    if name == "Inner":
        fresh.forward = fresh["net"].forward
    judged(fresh)

import copy
kept = fit(kind("Kept"))
best = {"model": kept.state_dict(), "score": 1.0}
fit(kept)
kept.load_state_dict(best["model"])

copied = fit(kind("Copied"))
best = copy.deepcopy(copied.state_dict())
fit(copied)
copied.load_state_dict(best)
copied.load_state_dict(copied.state_dict())  # nothing happened in between

averaged, online = kind("Averaged"), kind("Online")
for _ in range(2):
    fit(online, 8)
    averaged.load_state_dict(online.state_dict())
mixed = fit(kind("Mixed"))
parts = mixed.state_dict()
fit(mixed)
parts.update({key: value.clone() for key, value in online.state_dict().items() if not body(key)})
mixed.load_state_dict(parts)  # its own body, with another head
"""


def test_what_is_read_back_without_its_head_and_judged(tmp_path: Path, forks: Forks) -> None:
    (tmp_path / "train.py").write_text(RELOADED)
    forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
    told = json.loads((tmp_path / "told.json").read_text())
    found = {(one["model"].split()[0], one["code"]) for one in told["findings"]}
    assert found == {(name, "K1") for name in ("Lost", "Kept", "Wrapped", "Inner")}
    assert not told["run"]["problems"]
