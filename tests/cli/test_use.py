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
    assert "by type: color" in done.stdout
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


def test_eval_answers_a_test_split_for_its_server(call, run: Path, tmp_path: Path) -> None:
    colors = [path.stem for path in sorted(tmp_path.glob("*.png"))]
    questions = [
        {"question_id": 10 * n + kind, "image_id": color, "question": text}
        for n, color in enumerate(colors, start=1)
        for kind, text in enumerate(("what color is the whole picture ?", "is it red ?"))
    ]
    (tmp_path / "test2015.json").write_text(json.dumps({"questions": questions}))
    spec = {"reader": "vqa", "path": tmp_path / "test2015.json", "file_name": "'{image_id}.png'"}
    asked = [*(f"data.dev.{key}={value}" for key, value in spec.items()), "evaluate.data=dev"]
    done = call("eval", run, *asked, "--submit", tmp_path / "answers.json")
    assert done.exit_code == 0, done.output
    assert f"{len(questions)} answers to dev, each question once: {tmp_path / 'answers.json'}" in done.stdout
    handed_in = json.loads((tmp_path / "answers.json").read_text())
    assert [each["question_id"] for each in handed_in] == [each["question_id"] for each in questions]
    assert not (run / "evaluation.json").exists(), "there is nothing to be judged by"
    said = call("ask", run, tmp_path / f"{colors[0]}.png", questions[0]["question"], "--tokens", "3").stdout
    assert handed_in[0]["answer"] == said.strip()

    done = call("eval", run, *asked, "--submit", tmp_path / "answers.json", "--limit", "3")
    assert done.exit_code == 2 and "--limit: a submission answers every question" in done.output
    done = call("eval", run, *asked, "--submit", tmp_path / "absent" / "answers.json")
    assert done.exit_code == 2 and "is in a folder that does not exist" in done.output
    done = call("eval", run, "--submit", tmp_path / "answers.json")
    assert done.exit_code == 2 and "reader 'messages' has no format of submissions" in done.output
