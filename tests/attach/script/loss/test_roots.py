"""`sightline run` knows the loss of each step, whichever function made it and whatever scaled it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.forked import Forks

STYLES = """
import sys, torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

heard = []
if "sightline" in sys.modules:  # what the guard was shown of each step
    from sightline.guard.evidence import StepSeen
    from sightline.guard.watch import Watch
    offer = Watch.offer
    def listening(watch, seen):
        if isinstance(seen, StepSeen):
            heard.append(seen.loss)
        return offer(watch, seen)
    Watch.offer = listening

torch.manual_seed(0)
x, y = torch.randn(64, 8), torch.randint(0, 5, (64,))

def net(outputs=5):
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, outputs))

def plain(model, optimizer):
    loss = cross_entropy(model(x), y)
    loss.backward()
    return loss

def by_hand(model, optimizer):
    loss = (model(x) - x[:, :5]).pow(2).mean() * 0.7
    torch.autograd.backward(loss)
    return loss

def accumulated(model, optimizer):
    losses = [cross_entropy(model(part), to) for part, to in zip(x.split(16), y.split(16))]
    for loss in losses:
        (loss / len(losses)).backward()
    return sum(losses) / len(losses)

def by_tokens(model, optimizer):
    loss = cross_entropy(model(x), y, reduction="sum") / len(y)
    loss.backward()
    return loss

scaler = torch.amp.GradScaler("cpu", init_scale=128.0)
def scaled(model, optimizer):
    losses = [binary_cross_entropy_with_logits(model(part), torch.ones(16, 5)) for part in x.split(16)]
    for loss in losses:
        scaler.scale(loss / 4).backward()
    return sum(losses) / 4

def module(model, optimizer):
    loss = nn.MSELoss()(model(x), x[:, :5])
    loss.backward()
    return loss

def encoded(parts, optimizer):
    loss = cross_entropy(parts[1](parts[0](x)), y)
    loss.backward()
    return loss

def run(style, models, last=None, steps=6):
    optimizer = torch.optim.SGD([p for model in models for p in model.parameters()], lr=0.05)
    told = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = style(models[0] if len(models) == 1 else models, optimizer)
        told.append(loss.item())
        if style is scaled:
            scaler.step(optimizer); scaler.update()
        else:
            optimizer.step()
    return told

def lbfgs():
    model = net()
    optimizer, told = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=1), []
    for _ in range(6):
        def closure():
            optimizer.zero_grad()
            loss = mse_loss(model(x), x[:, :5])
            loss.backward()
            told.append(loss.item())
            return loss
        optimizer.step(closure)
    return told

def accelerated():
    from accelerate import Accelerator
    accelerator, model = Accelerator(gradient_accumulation_steps=4, cpu=True), net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model, optimizer = accelerator.prepare(model, optimizer)
    told = []
    for _ in range(6):
        losses = []
        for part, to in zip(x.split(16), y.split(16)):
            with accelerator.accumulate(model):
                losses.append(cross_entropy(model(part), to))
                accelerator.backward(losses[-1])
                optimizer.step()
                optimizer.zero_grad()
        told.append(sum(losses).item() / 4)
    return told

def all_of():
    for style in (plain, by_hand, accumulated, by_tokens, scaled, module):
        yield style.__name__, run(style, [net()])
    yield "encoded", run(encoded, [net(16), nn.Linear(16, 5)])
    yield "lbfgs", lbfgs()
    yield "accelerated", accelerated()

every = []
for name, told in all_of():
    print(name, [loss.hex() for loss in told])
    every += [(name, loss) for loss in told]
if "sightline" in sys.modules:  # all but the last step is evidence by now
    assert len(heard) in (len(every) - 1, len(every)), len(heard)
    wrong = [(name, a, b) for a, (name, b) in zip(heard, every) if a is None or abs(a - b) > 1e-5 * abs(b)]
    assert not wrong, wrong
"""

TWICE = """
import sys, torch
from torch import nn
torch.manual_seed(0)
encoder, head = nn.Sequential(nn.Linear(8, 16), nn.ReLU()), nn.Linear(16, 5)
optimizer = torch.optim.Adam([*encoder.parameters(), *head.parameters()], lr=1e-3)
for step in range(12):
    optimizer.zero_grad()
    scores = head(encoder(torch.randn(32, 8)))
    if sys.argv[1] == "softmax":
        scores = scores.softmax(-1)
    if sys.argv[1] == "nan" and step == 6:
        scores = scores * float("inf")
    target = torch.randint(0, 5, (32,))
    if sys.argv[1] == "nll":  # probabilities, and a loss that takes them for what they are
        loss = nn.functional.nll_loss(scores.softmax(-1).log(), target)
    else:
        loss = nn.functional.cross_entropy(scores, target, label_smoothing=0.1 if sys.argv[1] == "smooth" else 0.0)
    loss.backward()
    optimizer.step()
print(loss.item().hex())
"""


def _watched(forks: Forks, tmp_path: Path, text: str, *arguments: str) -> tuple[str, dict[str, Any]]:
    (tmp_path / "train.py").write_text(text, encoding="utf-8")
    output = forks.run("sightline", "run", "--findings", "told.json", "train.py", *arguments, cwd=tmp_path).stdout
    return output, json.loads((tmp_path / "told.json").read_text())


def test_the_loss_of_every_style(tmp_path: Path, forks: Forks) -> None:
    output, told = _watched(forks, tmp_path, STYLES)
    assert output == forks.run("train.py", cwd=tmp_path).stdout and told["run"]["problems"] == []
    assert [finding for finding in told["findings"] if finding["severity"] != "note"] == []


@pytest.mark.parametrize(
    ("how", "codes"), [("clean", []), ("nll", []), ("smooth", []), ("softmax", ["T4"]), ("nan", ["P1"])]
)
def test_faults_of_parts_that_are_called_one_by_one(how: str, codes: list[str], tmp_path: Path, forks: Forks) -> None:
    _, told = _watched(forks, tmp_path, TWICE, how)
    assert told["run"]["problems"] == []
    assert [finding["code"] for finding in told["findings"]] == codes
