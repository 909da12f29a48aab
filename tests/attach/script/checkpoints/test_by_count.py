"""A rate that begins anew by a count of the script's own, where rows are drawn at random."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from sightline.attach.script.checkpoints.by_count import LONG, ByCount
from sightline.attach.script.checkpoints.contents import prints
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding
from sightline.guard.evidence import ResumeSeen
from tests.attach.script.conftest import Codes

DONE, TOTAL = 20, 20  # a number of the script's that is the file's by chance goes nowhere
RATE = (("rate", "it begins anew at 0.001, as the first step did, where it was 0.02"),)


def windows(seed: int, count: int = 400) -> Callable[[], Tensor]:
    """Draws windows of a text."""
    text = torch.randn(count + 8, generator=torch.Generator().manual_seed(seed))
    return lambda: torch.stack([text[at : at + 8] for at in torch.randint(count, (16,)).tolist()])


class Script:
    """Trains one model, saves it, and goes on with another from there."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.found: list[Finding] = []
        self.models = Models(1.0, self.found.append, self.found.append)
        self.draw, self.by_count = windows(1), ByCount()
        model, opt = self.begin()
        for _ in range(DONE):
            self.step(model, opt)
        self.file = {"model": model.state_dict(), "opt": opt.state_dict(), "done": DONE}
        loading = self.models.live[0].attachment.loading
        self.rows = frozenset(row for batch in loading.fed for row in batch.inputs)

    def begin(self) -> tuple[nn.Module, SGD]:
        model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))
        opt = SGD(model.parameters(), lr=0.02, momentum=0.9)
        self.models.attach(model, [opt], blind=False)
        return model, opt

    def step(self, model: nn.Module, opt: SGD) -> None:
        opt.zero_grad()
        model(self.draw()).square().mean().backward()
        self.by_count.stepping(opt)
        opt.step()

    def goes_on(self, at: int, steps: int = 12, *, moments: bool = True) -> list[str]:
        model, opt = self.begin()
        model.load_state_dict(self.file["model"])
        if moments:
            opt.load_state_dict(self.file["opt"])
        seen = ResumeSeen(0, "last.pt", ("optimizer",), ("optimizer",), ("optimizer",), RATE)
        known = prints(self.file)
        self.by_count.begins(self.models.live[-1], opt, seen, self.file.values(), known, self.rows, DONE)
        until = at + steps
        while at < until:
            self.step(model, opt)
            at += 1
        self.models.close_all(whole=True)
        return [one.message for one in self.found if one.code == "K2"]


def test_a_count_that_begins_at_0() -> None:
    script = Script()
    (message,) = script.goes_on(0)
    assert "rate was not restored: it begins anew at 0.001" in message and not script.by_count.waiting


def goes_on_from_the_file(script: Script) -> list[str]:
    return script.goes_on(DONE)


def on_another_text(script: Script) -> list[str]:
    script.draw = windows(2)
    return script.goes_on(0, LONG + 1)


def without_its_moments(script: Script) -> list[str]:
    return script.goes_on(0, moments=False)


def with_a_file_that_counts_something_else(script: Script) -> list[str]:
    script.file["done"] = 3
    return script.goes_on(0)


QUIET = [goes_on_from_the_file, on_another_text, without_its_moments, with_a_file_that_counts_something_else]


@pytest.mark.parametrize("quiet", QUIET, ids=lambda one: one.__name__)
def test_what_goes_on_or_begins_something_new(quiet: Callable[[Script], list[str]]) -> None:
    script = Script()
    assert quiet(script) == [] and not script.by_count.waiting


IN_FILES = """
import json, torch
from torch import nn

torch.manual_seed(0)
text = torch.randn(2000)

def main(resume, until):
    model, at = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), 0
    opt = torch.optim.Adam(model.parameters(), lr=3e-3)
    if resume:
        model.load_state_dict(torch.load("model.pt"))
        opt.load_state_dict(torch.load("opt.pt"))
        at = AT
    while at < until:
        for group in opt.param_groups:
            group["lr"] = 3e-3 * min(1.0, (at + 1) / 20)
        x = torch.stack([text[i : i + 8] for i in torch.randint(1900, (32,)).tolist()])
        loss = (model(x)[:, 0] - x[:, 0]).square().mean()
        opt.zero_grad()
        loss.backward()
        opt.step()
        at += 1
    torch.save(model.state_dict(), "model.pt")
    torch.save(opt.state_dict(), "opt.pt")
    with open("state.json", "w") as file:
        json.dump({"at": at}, file)

main(False, 60)
main(True, 120)
"""


@pytest.mark.slow
def test_a_checkpoint_in_several_files(codes: Codes) -> None:
    assert any(code == "K2" for _, code in codes(IN_FILES.replace("AT", "0")))
    assert not any(code == "K2" for _, code in codes(IN_FILES.replace("AT", 'json.load(open("state.json"))["at"]')))
