"""Perplexity on the command line: of a run's answers, of documents by a run, of documents by a model in a folder."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from sightline.models.saved import load_run

PAGE = "what color is the whole picture ? red green blue is it red ? yes no " * 3


@pytest.fixture
def page(tmp_path: Path) -> Path:
    (tmp_path / "page.txt").write_text(PAGE, encoding="utf-8")
    return tmp_path / "page.txt"


def test_of_a_runs_answers(call, run: Path) -> None:
    done = call("eval", run, "evaluate.metric=perplexity")
    assert done.exit_code == 0, done.output
    seen = json.loads((run / "evaluation.json").read_text())
    assert seen["tokens"] == 24 and seen["perplexity"] == pytest.approx(math.exp(seen["nats"]))
    low, high = seen["interval"]
    assert (
        f"perplexity {seen['perplexity']:.3f} (" in done.stdout and f"interval {low:.3f} to {high:.3f}" in done.stdout
    )
    assert "24 tokens of 12 rows of test" in done.stdout and "by type: color" in done.stdout
    assert "with other images:" in done.stdout
    assert (run / "report.html").is_file()


def test_of_documents_by_a_run_and_by_its_language_tower_alone(call, run: Path, page: Path, tmp_path: Path) -> None:
    spec = [f"data.page={{reader: text, path: {page}}}", "evaluate.data=page", "evaluate.group_by=null"]
    windows = ["evaluate.metric=perplexity", "evaluate.window=16", "evaluate.stride=6"]
    done = call("eval", run, *spec, *windows)
    assert done.exit_code == 0, done.output
    seen = json.loads((run / "evaluation.json").read_text())
    assert "of 1 document of page (no interval from a single one)" in done.stdout and seen["interval"] is None
    built = load_run(run)
    language = AutoModelForCausalLM.from_config(built.model.language.config)  # type: ignore[union-attr]
    language.load_state_dict(built.model.language.state_dict())  # type: ignore[union-attr]
    language.save_pretrained(tmp_path / "alone")
    built.encoder.tokenizer.save_pretrained(tmp_path / "alone")
    given = ["--model", tmp_path / "alone", "--text", page, "--window", 16, "--stride", 6]
    alone = call("score", "perplexity", *given, "--json")
    assert alone.exit_code == 0, alone.output
    told = json.loads(alone.stdout)
    assert (told["tokens"], told["documents"], told["window"], told["stride"]) == (seen["tokens"], 1, 16, 6)
    assert told["perplexity"] == pytest.approx(seen["perplexity"], rel=1e-5)
    (tmp_path / "more.txt").write_text(PAGE[7:])
    said = call("score", "perplexity", *given, "--text", tmp_path / "more.txt")
    assert "2 documents" in said.stdout and "bootstrap over documents" in said.stdout


def test_bad_input_is_told_in_one_error(call, run: Path, page: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "photo.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bare").mkdir()
    for model, text, message in (
        (run, page, "this is a run"),
        (tmp_path / "bare", tmp_path / "none.txt", "none.txt: no such file"),
        (tmp_path / "bare", tmp_path / "bare", "holds no .txt file"),
        (tmp_path / "bare", tmp_path / "empty.txt", "empty.txt is empty"),
        (tmp_path / "bare", tmp_path / "photo.txt", "photo.txt is not UTF-8 text (byte 0)"),
        (tmp_path / "bare", page, "bare"),
    ):
        done = call("score", "perplexity", "--model", model, "--text", text)
        assert done.exit_code == 2 and message in done.output and "Traceback" not in done.output, done.output
    done = call("eval", run, "evaluate.metric=perplexity", "evaluate.window=4", "evaluate.stride=4")
    assert done.exit_code == 0, done.output  # windows are of documents
    done = call("eval", run, "evaluate.window=4")
    assert done.exit_code == 2 and "'window' is read by metric perplexity alone" in done.output
