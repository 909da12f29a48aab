"""Answers that come with the prompt in front, and such as do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from sightline.attach.script.scoring.prompts import fronted
from tests.attach.script.scoring import answers
from tests.attach.script.scoring.test_scores import _loaders, run

__all__ = ["_loaders"]
pytestmark = pytest.mark.usefixtures("origins")

SCRIPT = """
def exact(pred, gold):
    return float(READ(pred).strip() == gold)
def exacts(preds, golds):
    return sum(map(exact, preds, golds)) / len(golds)
def evaluate(net, loader):
    told, preds, golds, rows = [], [], [], []
    for at, b in enumerate(loader):
        for place, (k, gold) in enumerate(zip(net.answer(b["x"]), b["text"])):
            row = {"prompt": f"question {at} of {place} :", "gold": gold}
            said = row["prompt"] + " " + WORDS[k]
            text = SAID
            told.append(exact(text, row["gold"]))
            preds.append(text), golds.append(gold), rows.append(row)
    return [sum(told) / len(told), exacts(preds, golds)]
"""
WRONG = {"READ": "str", "SAID": "said"}
RIGHT = {
    "cut off before": {"READ": "str", "SAID": 'said[len(row["prompt"]) :]'},
    "cut off by the metric": {"READ": "(lambda text: text.split(':')[-1])", "SAID": "said"},
    "of it once with, once without": {
        "READ": "str",
        "SAID": 'said if exact(said[len(row["prompt"]) :], gold) < 0 else said[len(row["prompt"]) :]',
    },
}


def test_answers_behind_their_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = run(answers.written(SCRIPT, WRONG), tmp_path, monkeypatch)
    assert [one.severity for one in found] == ["error"] and "texts without the prompt" in found[0].message


@pytest.mark.parametrize("name", RIGHT)
def test_answers_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(answers.written(SCRIPT, RIGHT[name]), tmp_path, monkeypatch)[0] == []


@pytest.mark.parametrize(
    ("said", "wanted", "leads", "found"),
    [
        ("what  is it ? red", "red", {"whatisit?"}, True),
        ("what is it ? blue", "red", {"whatisit?"}, False),  # nothing shows that an answer stands behind
        ("what is it ? red", "red", {"whereisit?"}, False),  # nobody asked that
        ("what is it ? red", "what is it ? red", {"whatisit?"}, False),  # it is wanted so
        ("what is it ?", "what is it ?", {"whatisit?"}, False),
    ],
)
def test_what_stands_behind(said: str, wanted: str, leads: set[str], found: bool) -> None:
    read = fronted([said] * 8, [wanted] * 8, leads)
    assert (read.truth == [said] * 8) if read and found else read is None is not found
