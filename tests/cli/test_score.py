"""`sightline score` as users call it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from tests.cli.conftest import Call
from tests.evaluate.vqa.test_score import files


@pytest.fixture
def vqa(tmp_path: Path) -> list[object]:
    """The arguments that score three questions."""
    arguments: list[object] = ["score", "vqa"]
    for name, value in files().items():
        (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")
        arguments += [f"--{name}", tmp_path / name]
    return arguments


def test_vqa_as_json(call: Call, vqa: list[object]) -> None:
    done = call(*vqa, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.output)
    assert (facts["overall"], facts["rule"], facts["questions"]) == (43.33, "official", 3)
    assert facts["per_answer_type"] == {"other": 100.0, "number": 30.0, "yes/no": 0.0}
    assert facts["per_question_type"] == {"what is": 100.0, "how many": 30.0, "is it": 0.0}


@pytest.mark.parametrize("rule", ["official", "lavis", "lmms-eval"])
def test_vqa_names_its_rule(rule: str, call: Call, vqa: list[object]) -> None:
    assert f"'{rule}'" in call(*vqa, "--rule", rule).output
    assert json.loads(call(*vqa, "--rule", rule, "--json").output)["rule"] == rule


def test_vqa_of_a_part(call: Call, vqa: list[object], tmp_path: Path) -> None:
    (tmp_path / "predictions").write_text('[{"question_id": 1, "answer": "cat"}]', encoding="utf-8")
    refused = call(*vqa)
    assert (refused.exit_code, "--partial" in refused.output) == (2, True)
    done = call(*vqa, "--partial")
    assert (done.exit_code, done.output.startswith("PARTIAL")) == (0, True)
    assert json.loads(call(*vqa, "--partial", "--json").output)["partial"] is True


@pytest.mark.parametrize("name", ["questions", "annotations", "predictions"])
def test_vqa_of_a_bad_file_is_one_message(name: str, call: Call, vqa: list[object], tmp_path: Path) -> None:
    (tmp_path / name).write_text("question_id,answer", encoding="utf-8")
    done = call(*vqa)
    assert done.exit_code == 2
    assert done.output.startswith(f"error: --{name} {tmp_path / name}: is not JSON")
    assert "Traceback" not in done.output


def test_captions_name_their_tokenizer(call: Call, tmp_path: Path) -> None:
    (tmp_path / "known").write_text(
        '{"1": ["a cat on a mat", "the cat"], "2": ["two dogs run here"]}', encoding="utf-8"
    )
    (tmp_path / "said").write_text(
        '[{"image_id": 1, "caption": "A cat."}, {"image_id": 2, "caption": "dogs"}]', "utf-8"
    )
    asked = ["score", "captions", "--annotations", tmp_path / "known", "--predictions", tmp_path / "said"]
    done = call(*asked)
    assert (done.exit_code, "tokenizer 'words'" in done.output, "CIDEr" in done.output) == (0, True, True)
    facts = json.loads(call(*asked, "--json").output)
    assert (facts["tokenizer"], facts["images"]) == ("words", 2)


def test_pope_by_category(call: Call, tmp_path: Path) -> None:
    asked: list[object] = ["score", "pope"]
    for category in ("random", "popular"):
        (tmp_path / f"pope_{category}.json").write_text(
            '{"question_id": 1, "image": "a", "label": "yes"}\n{"question_id": 2, "image": "a", "label": "no"}\n'
        )
        (tmp_path / f"said_{category}").write_text(
            '{"question_id": 1, "answer": "Yes"}\n{"question_id": 2, "answer": "Yes"}\n'
        )
        asked += ["--annotations", tmp_path / f"pope_{category}.json", "--predictions", tmp_path / f"said_{category}"]
    done = call(*asked)
    assert (done.exit_code, "rule 'official'" in done.output, "popular" in done.output) == (0, True, True)
    facts = json.loads(call(*asked, "--json", "--rule", "lmms-eval").output)
    assert (facts["rule"], facts["accuracy"], facts["yes_ratio"], facts["by_category"]["random"]["recall"]) == (
        "lmms-eval",
        0.5,
        1,
        1,
    )


def test_calibration(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text(json.dumps([{"confidence": 0.75, "correct": n < 2} for n in range(4)]), encoding="utf-8")
    done = call("score", "calibration", "--predictions", path, "--bins", 4)
    assert (done.exit_code, "error 0.2500 over 4 answers" in done.output, "0.75 to 1.00" in done.output) == (
        0,
        True,
        True,
    )
    assert json.loads(call("score", "calibration", "--predictions", path, "--json").output)["ece"] == 0.25


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[{"confidence": 2, "correct": true}]', "has 2 for its confidence"),
        ("[]", "no predictions"),
        ("[1]", "record 1 has no"),
    ],
)
def test_calibration_of_bad_files(text: str, told: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "said.json").write_text(text, encoding="utf-8")
    done = call("score", "calibration", "--predictions", tmp_path / "said.json")
    assert (done.exit_code, told in done.output) == (2, True), done.output


def test_vqa_needs_no_torch(vqa: list[object]) -> None:
    script = "import sys; from sightline.cli import app; app(sys.argv[1:], standalone_mode=False)"
    script += "; print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, *map(str, vqa)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_vqa_of_each_question(call: Call, vqa: list[object]) -> None:
    facts = json.loads(call(*vqa, "--json", "--per-question").output)
    assert facts["per_question"] == {"1": 100.0, "2": 30.0, "3": 0.0}


def test_retrieval(call: Call, tmp_path: Path) -> None:
    numpy.save(tmp_path / "near.npy", numpy.eye(4))
    done = call("score", "retrieval", "--similarity", tmp_path / "near.npy")
    assert (done.exit_code, "sum of the six recalls 600.00" in done.output) == (0, True)
    facts = json.loads(call("score", "retrieval", "--similarity", tmp_path / "near.npy", "--json").output)
    assert facts["text_to_image"]["recall"]["1"] == 1
