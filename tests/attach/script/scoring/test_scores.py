"""Metrics of a script's own: those that read the wrong thing, and those that are as they should be."""

from __future__ import annotations

import functools
import importlib.util
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from torch.utils.data.dataloader import _BaseDataLoaderIter

from sightline.attach.phases.state import State
from sightline.attach.script.scoring import listen
from sightline.attach.script.scoring.listen import Scores
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding
from tests.attach.script.scoring import answers, scripts

pytestmark = pytest.mark.usefixtures("origins")


@pytest.fixture(autouse=True)
def _loaders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As they were, afterwards."""
    monkeypatch.setattr(_BaseDataLoaderIter, "__next__", _BaseDataLoaderIter.__next__)
    monkeypatch.setattr(State, "audience", None)
    monkeypatch.setattr(nn.Module, "eval", nn.Module.eval)
    yield


def script(source: str, folder: Path) -> ModuleType:
    file = folder / "script.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("script", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def recorders(models: Models) -> list[State]:
    return [one.recorder for one in models.live]


def run(
    source: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *, rounds: int = 2, watched: bool = True
) -> tuple[list[Finding], list[Any]]:
    """The findings of M3 in a script that trains and evaluates, and what its evaluations gave."""
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    found: list[Finding] = []
    problems: list[str] = []
    loop = script(source, folder)
    monkeypatch.setattr(listen, "folders", lambda: (str(folder),))
    net = loop.net()
    opt = torch.optim.Adam(net.parameters(), lr=0.02)
    models = scores = None
    if watched:
        models = Models(1.0, found.append, problems.append)
        scores = Scores(problems.append, functools.partial(recorders, models))
        scores.install()
        models.attach(net, [opt], blind=False)
    collate = getattr(loop, "collate", None)
    train = DataLoader(loop.rows(), batch_size=32, shuffle=True, collate_fn=collate)
    valid = DataLoader(loop.rows(), batch_size=48, collate_fn=collate)
    told = []
    for _ in range(rounds):
        for _ in range(4):
            for batch in train:
                opt.zero_grad()
                loop.loss(net, batch).backward()
                opt.step()
        net.eval()
        with torch.no_grad():
            told.append(loop.evaluate(net, valid))
        net.train()
    if models and scores:
        models.close_all(whole=True)
        scores.close()
    told.append(
        (torch.rand(3).tolist(), random.random(), float(np.random.rand()), [p.sum().item() for p in net.parameters()])
    )
    assert not problems
    return [one for one in found if one.code == "M3"], told


QUICK = (
    "boxes",
    "tokens",
    "texts",
    "tokens beside the same place",
    "texts one by one",
)  # the others take half a minute


def those(sources: Iterable[str]) -> list[Any]:
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sources]


@pytest.mark.parametrize("name", those(scripts.FAULTY))
def test_metrics_that_read_the_wrong_thing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, says = scripts.FAULTY[name]
    found, _ = run(source, tmp_path, monkeypatch)
    assert [one.severity for one in found] == ["error"] and says in found[0].message


@pytest.mark.parametrize("name", those(scripts.CLEAN))
def test_metrics_that_are_as_they_should_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(scripts.CLEAN[name], tmp_path, monkeypatch)
    assert found == []


@pytest.mark.parametrize("name", those(scripts.WHOLE))
def test_evaluations_that_read_the_wrong_thing(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, says = scripts.WHOLE[name]
    found, _ = run(source, tmp_path, monkeypatch)
    assert [one.severity for one in found] == ["error"] and says in found[0].message


@pytest.mark.parametrize("name", those(scripts.SOUND))
def test_evaluations_that_are_as_they_should_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(scripts.SOUND[name], tmp_path, monkeypatch)
    assert found == []


@pytest.mark.parametrize("name", answers.WRONG_AND_RIGHT)
def test_answers_that_are_compared_in_another_form(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, wrong, right, says = answers.WRONG_AND_RIGHT[name]
    found, _ = run(answers.written(code, wrong), tmp_path, monkeypatch)
    assert [one.severity for one in found] == ["error"] and says in found[0].message
    found, _ = run(answers.written(code, right), tmp_path, monkeypatch)
    assert found == []


def test_answers_that_are_compared_as_they_should_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(answers.written(answers.SOUND, {}), tmp_path, monkeypatch)
    assert found == []


def test_the_run_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = scripts.FAULTY["boxes"]
    found, with_us = run(source, tmp_path, monkeypatch)
    _, without = run(source, tmp_path, monkeypatch, watched=False)
    assert found and with_us == without
