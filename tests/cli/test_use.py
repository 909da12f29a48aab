"""`sightline eval`, `ask` and `report` on a run."""

from __future__ import annotations

import json
from pathlib import Path


def test_eval_writes_what_it_prints(call, run: Path) -> None:
    done = call("eval", run)
    assert done.exit_code == 0, done.output
    seen = json.loads((run / "evaluation.json").read_text())
    assert f"accuracy: {100 * seen['accuracy']:.1f} % on 12 questions of test" in done.stdout
    assert "without the image:" in done.stdout and "with other images:" in done.stdout
    assert "by group: color" in done.stdout
    assert (run / "report.html").is_file() and "report: file://" in done.stdout
    assert "\x1b" not in done.output and done.stderr == ""


def test_eval_of_some(call, run: Path) -> None:
    done = call("eval", run, "--limit", "5")
    assert done.exit_code == 0, done.output
    assert "on 5 questions (not all of them) of test" in done.stdout
    assert json.loads((run / "evaluation.json").read_text())["partial"] is True


def test_ask_says_what_eval_says(call, run: Path, recipe_file: Path) -> None:
    call("eval", run)
    said = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    for line in said[:4]:
        done = call("ask", run, line["image_key"], line["question"], "--tokens", "3")
        assert done.exit_code == 0, done.output
        assert done.stdout == line["answer"] + "\n"


def test_report(call, run: Path) -> None:
    done = call("report", run)
    assert done.exit_code == 0, done.output
    assert (run / "report.html").is_file()
