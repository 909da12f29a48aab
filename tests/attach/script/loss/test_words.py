"""Perplexities among what a script says."""

from __future__ import annotations

import csv
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm  # type: ignore[import-untyped]

from sightline.attach.phases.state import State
from sightline.attach.script.loss import words
from sightline.attach.script.loss.words import BITS, LOSS, NAMED, Words, rounding


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("epoch 2 perplexity 9.380", [("perplexity", "9.380")]),
        ("Validation PPL: 12.5, loss 2.1", [("PPL", "12.5")]),
        ("{'val/ppl': 3.25e+02}", [("val/ppl", "3.25e+02")]),
        ("val_ppl=7.10 train_ppl=6.01", [("val_ppl", "7.10"), ("train_ppl", "6.01")]),
        ("perplexity is 4.5", [("perplexity", "4.5")]),
        ("apples 3.5", []),
        ("perplexity of the model after 3 epochs", []),
        ("ppl 12", []),
    ],
)
def test_a_number_behind_its_name(line: str, found: list[tuple[str, str]]) -> None:
    assert NAMED.findall(line) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("step 60 loss 2.105 val loss 2.301", [("val loss", "2.301")]),
        ("{'eval_loss': 1.25, 'lr': 0.1}", [("eval_loss", "1.25")]),
        ("Test NLL = 3.5e-1", [("Test NLL", "3.5e-1")]),
        ("validation mean loss: 0.70", [("validation mean loss", "0.70")]),
        ("loss 2.1, train_loss 2.0, interval loss 3.5", []),
    ],
)
def test_a_loss_of_an_evaluation(line: str, found: list[tuple[str, str]]) -> None:
    assert LOSS.findall(line) == found


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("val bits per char: 1.523", [("bits per char", "1.523")]),
        ("step 9 | val_bpb=0.981 | lr 0.1", [("val_bpb", "0.981")]),
        ("8 bits of 3.5, a bit later 1.2", []),
    ],
)
def test_bits(line: str, found: list[tuple[str, str]]) -> None:
    assert BITS.findall(line) == found


def test_what_the_last_digit_leaves_open() -> None:
    assert [rounding(number) for number in ("9.90", "3.25e+02", "1.5e-1")] == pytest.approx([0.005, 0.5, 0.005])


class Evaluated:
    evaluated = True


Listening = tuple[Words, Any, list[dict[str, str]]]
PPL = 12.345678901234567


def board(folder: Path, history: Any) -> None:
    with SummaryWriter(str(folder)) as writer:
        writer.add_scalar("perplexity/val", torch.tensor(PPL, dtype=torch.float64), 3)


def table(folder: Path, history: Any) -> None:
    rows = csv.DictWriter(io.StringIO(), ["epoch", "train_loss", "val_ppl"])
    rows.writerow(history[-1])


SAYS: dict[str, Callable[[Path, list[dict[str, Any]]], Any]] = {
    "a file of JSON": lambda folder, history: json.dump({"history": history}, io.StringIO()),
    "a line of JSON": lambda folder, history: json.dumps(history[-1]),
    "CSV": table,
    "TensorBoard": board,
    "a bar": lambda folder, history: tqdm(disable=True).set_postfix(val_ppl=history[-1]["val_ppl"], lr=0.1),
    "a bar of texts": lambda folder, history: tqdm(disable=True).set_postfix_str(f"val_ppl={PPL!r}"),
    "a logger": lambda folder, history: logging.getLogger("plain").warning("%s %.15f", "val_ppl", PPL),
}


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listening]:
    """Whoever evaluated, and what was shown of that; all that was put around others' functions is off again."""
    shown: list[dict[str, str]] = []
    for how in ("_show", "_offer"):
        monkeypatch.setattr(words, how, lambda recorder, found: shown.append(found))
    for owner, names in (
        (json, ("dump", "dumps")),
        (csv.DictWriter, ("writerow",)),
        (SummaryWriter, ("add_scalar", "add_scalars")),
        (tqdm, words.BARS),
    ):
        for name in names:
            monkeypatch.setattr(owner, name, getattr(owner, name))
    monkeypatch.setattr("builtins.print", print)
    factory = logging.getLogRecordFactory()
    recorder, audience = Evaluated(), State.audience
    faults: list[str] = []
    one = Words(SimpleNamespace(live=[SimpleNamespace(attachment=1, recorder=recorder)]), faults.append)  # type: ignore[arg-type]
    one.install()
    for act in one.on_import().values():
        act()
    yield one, recorder, shown
    one.close()
    assert State.audience is audience
    logging.setLogRecordFactory(factory)
    assert not faults


@pytest.mark.parametrize("style", SAYS)
def test_what_is_filed(style: str, listening: Listening, tmp_path: Path) -> None:
    one, recorder, shown = listening
    history = [{"epoch": n, "train_loss": 0.5, "val_ppl": PPL + 2 - n} for n in range(3)]
    for value in (3.0, PPL):
        history[-1]["val_ppl"] = value
        SAYS[style](tmp_path, history)
    assert style == "a logger" or not shown  # a bar may tell it after each batch
    one.over(recorder)
    one.over(recorder)
    shown[:-1] = []
    assert [[float(n) for n in one.values()] for one in shown] == [[pytest.approx(PPL)]]
    recorder.evaluated = False
    SAYS[style](tmp_path, history)
    one.over(recorder)
    assert len(shown) == 1
