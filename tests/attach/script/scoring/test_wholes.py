"""Evaluations that are no functions of their own, and scores that are means over batches."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data.dataloader import _BaseDataLoaderIter

from sightline.attach.phases.state import State
from sightline.attach.script.scoring import listen
from sightline.attach.script.scoring.listen import Scores
from sightline.attach.script.watch import Models
from sightline.guard.check import Finding
from tests.attach.script.scoring import wholes

pytestmark = [pytest.mark.usefixtures("origins"), pytest.mark.slow]


def run(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """The findings of M3 and L7 in a script, from its first line to its last."""
    monkeypatch.setattr(_BaseDataLoaderIter, "__next__", _BaseDataLoaderIter.__next__)
    monkeypatch.setattr(State, "audience", None)
    monkeypatch.setattr(nn.Module, "eval", nn.Module.eval)
    monkeypatch.setattr(listen, "folders", lambda: (str(folder),))
    found: list[Finding] = []
    problems: list[str] = []
    models, scores = Models(1.0, found.append, problems.append), Scores(problems.append)
    scores.install()

    def watch(net: nn.Module, opt: torch.optim.Optimizer) -> None:
        models.attach(net, [opt], blind=False)

    file = folder / "script.py"
    file.write_text(source)
    spec = importlib.util.spec_from_file_location("script", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    vars(module)["watch"] = watch
    spec.loader.exec_module(module)
    models.close_all(whole=True)
    scores.close()
    assert not problems
    return [one for one in found if one.code in ("M3", "L7")]


SLOW = ("torchmetrics", "a list of batches", "hits in per cent", "means, weighted")


def those(sources: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in sources]


@pytest.mark.parametrize("name", those(wholes.OFFSETS))
def test_labels_from_one_beside_classes_from_nought(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(wholes.BEGIN + wholes.OFFSETS[name].replace("OFF", "0"), tmp_path, monkeypatch)
    assert [(one.code, one.severity) for one in found] == [("M3", "error")] and "labels less one" in found[0].message


@pytest.mark.parametrize("name", those(wholes.OFFSETS))
def test_both_from_nought(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(wholes.BEGIN + wholes.OFFSETS[name].replace("OFF", "1"), tmp_path, monkeypatch) == []


@pytest.mark.parametrize("how", wholes.SEEN_TO)
def test_what_is_done_in_a_statement_that_is_left_out(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(wholes.BEGIN + wholes.OTHERWISE.replace("SEEN_TO", how), tmp_path, monkeypatch) == []


@pytest.mark.parametrize("name", those(wholes.LOGITS))
def test_yes_or_no_that_is_read_wrong(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(wholes.LOGITS[name], tmp_path, monkeypatch)
    assert [(one.code, one.severity) for one in found] == [("M3", "error")]


@pytest.mark.parametrize("name", those(wholes.SOUND))
def test_yes_or_no_as_it_should_be(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(wholes.SOUND[name], tmp_path, monkeypatch) == []


@pytest.mark.parametrize("name", those(wholes.MEANS))
def test_a_mean_over_batches_of_unequal_size(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run(wholes.MEANS[name], tmp_path, monkeypatch)
    assert [(one.code, one.severity) for one in found] == [("L7", "warning")]


@pytest.mark.parametrize("name", those(wholes.SUMS))
def test_a_mean_over_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(wholes.SUMS[name], tmp_path, monkeypatch) == []


def test_a_model_of_tied_weights_that_still_says_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(wholes.TIED, tmp_path, monkeypatch) == []
