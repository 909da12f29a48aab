from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.errors import UserError
from sightline.evaluate.vqa import score_vqa, usual

Files = dict[str, Any]


def people(*answers: str) -> list[dict[str, Any]]:
    return [
        {"answer": answer, "answer_confidence": "yes", "answer_id": number} for number, answer in enumerate(answers, 1)
    ]


def annotation(question: int | str, answers: list[Any], kind: str = "other", begin: str = "what is") -> dict[str, Any]:
    return {
        "question_id": question,
        "image_id": 5,
        "answer_type": kind,
        "question_type": begin,
        "answers": answers,
        "multiple_choice_answer": "cat",
    }


def files() -> Files:
    """Three questions; the marks are 1, 0.3 and 0."""
    return {
        "questions": {"questions": [{"question_id": n, "image_id": 5, "question": "?"} for n in (1, 2, 3)]},
        "annotations": {
            "annotations": [
                annotation(1, people(*["cat"] * 10)),
                annotation(2, people("2", *["3"] * 9), "number", "how many"),
                annotation(3, people(*["yes"] * 10), "yes/no", "is it"),
            ]
        },
        "predictions": [
            {"question_id": 3, "answer": "no"},
            {"question_id": 1, "answer": "cat"},
            {"question_id": 2, "answer": "two"},
        ],
    }


def test_figures() -> None:
    score = score_vqa(**files())
    assert (score.overall, score.marks) == (43.33, [1.0, pytest.approx(0.3), 0.0])
    assert score.per_answer_type == {"other": 100.0, "number": 30.0, "yes/no": 0.0}
    assert score.per_question_type == {"what is": 100.0, "how many": 30.0, "is it": 0.0}
    assert score.per_question == {1: 100.0, 2: 30.0, 3: 0.0}
    facts = score.facts()
    assert (facts["rule"], facts["questions"], facts["partial"]) == ("official", 3, False)


def test_plain_and_gzipped_files_are_told_by_content(tmp_path: Path) -> None:
    given = files()
    (tmp_path / "questions.gzip").write_text(json.dumps(given["questions"]), encoding="utf-8")  # plain all the same
    (tmp_path / "annotations.json").write_bytes(gzip.compress(json.dumps(given["annotations"]).encode()))
    (tmp_path / "predictions").write_text("\ufeff" + json.dumps(given["predictions"], indent=2), encoding="utf-8")
    score = score_vqa(tmp_path / "questions.gzip", tmp_path / "annotations.json", str(tmp_path / "predictions"))
    assert score.facts() == score_vqa(**given).facts()


def test_files_of_the_usual_shape_are_scored_alike_without_msgspec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = files()
    given["annotations"]["annotations"].insert(1, annotation(4, ["a", "b"]))  # the odd one
    given["questions"]["questions"].append({"question_id": 4})
    given["predictions"].append({"question_id": 4, "answer": "b"})
    for name, value in given.items():
        (tmp_path / name).write_text(json.dumps(value), encoding="utf-8")
    paths = [tmp_path / name for name in given]
    with_it = score_vqa(*paths)
    monkeypatch.setattr(usual, "msgspec", None)
    assert score_vqa(*paths) == with_it == score_vqa(**given)
    assert with_it.questions == [1, 4, 2, 3]


SHAPES: dict[str, Callable[[list[dict[str, Any]]], Any]] = {
    "under a name": lambda given: {"info": {}, "predictions": given},
    "ids as text": lambda given: [{**each, "question_id": str(each["question_id"])} for each in given],
    "GQA": lambda given: [{"questionId": str(each["question_id"]), "prediction": each["answer"]} for each in given],
    "by id": lambda given: {str(each["question_id"]): each["answer"] for each in given},
    "more fields": lambda given: [{"image_id": 3, **each, "confidence": 0.5} for each in given],
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_predictions(shape: str) -> None:
    given = files()
    given["predictions"] = SHAPES[shape](given["predictions"])
    assert score_vqa(**given).overall == 43.33


def test_json_lines(tmp_path: Path) -> None:
    given = files()
    lines = "\n".join(map(json.dumps, given["predictions"]))
    (tmp_path / "answers.jsonl").write_text(lines + "\n", encoding="utf-8")
    assert score_vqa(given["questions"], given["annotations"], tmp_path / "answers.jsonl").overall == 43.33


def test_a_single_json_line(tmp_path: Path) -> None:
    (tmp_path / "answer.jsonl").write_text('{"question_id": 1, "answer": "cat"}\n', encoding="utf-8")
    given = files()
    del given["questions"]["questions"][1:], given["annotations"]["annotations"][1:]
    assert score_vqa(given["questions"], given["annotations"], tmp_path / "answer.jsonl").overall == 100


def test_textvqa_has_questions_and_bare_answers_in_one_file() -> None:
    given = files()
    records = given["annotations"]["annotations"]
    data = {
        "dataset_type": "val",
        "data": [
            {"question_id": each["question_id"], "image_id": "0a", "answers": [e["answer"] for e in each["answers"]]}
            for each in records
        ],
    }
    score = score_vqa(data, data, given["predictions"])
    assert (score.overall, score.per_answer_type, score.per_question_type) == (43.33, {}, {})


def vizwiz() -> Files:
    given = files()
    records = [
        {
            "image": f"VizWiz_{each['question_id']}.jpg",
            "answers": [{**e} for e in each["answers"]],
            "answer_type": "other",
        }
        for each in given["annotations"]["annotations"]
    ]
    for record in records:
        for entry in record["answers"]:
            del entry["answer_id"]
    predictions = [
        {"image": f"VizWiz_{each['question_id']}.jpg", "answer": each["answer"]} for each in given["predictions"]
    ]
    return {"questions": records, "annotations": records, "predictions": predictions}


def test_vizwiz_has_no_answer_ids() -> None:
    with pytest.raises(UserError, match="no ids"):
        score_vqa(**vizwiz())
    assert score_vqa(**vizwiz(), without_ids="number").facts()["answers_without_ids"] == "number"
    assert score_vqa(**files(), without_ids="number").facts()["answers_without_ids"] is None
    assert score_vqa(**vizwiz(), without_ids="number").overall == 43.33
    assert score_vqa(**vizwiz(), without_ids="merge").marks == [0.0, pytest.approx(0.3), 0.0]


def test_answers_that_differ_need_no_ids() -> None:
    given = vizwiz()
    for number, record in enumerate(given["annotations"]):
        record["answers"] = [{"answer": str(other), "answer_confidence": f"{number} {other}"} for other in range(4)]
    assert score_vqa(**given).marks == [0.0, pytest.approx(0.25), 0.0]


def test_types_that_some_questions_lack() -> None:
    given = files()
    del given["annotations"]["annotations"][2]["answer_type"]
    assert score_vqa(**given).per_answer_type == {"other": 100.0, "number": 30.0, "not given": 0.0}


def test_one_image_gives_no_interval_and_a_clean_sheet_is_not_certain() -> None:
    given = files()
    assert score_vqa(**given).interval() is None  # three questions about one image
    for number, record in enumerate(given["annotations"]["annotations"]):
        record["image_id"] = number
    low, high = score_vqa(**given).interval() or (0, 0)
    assert low < 43.33 < high
    given["predictions"] = {"1": "cat", "2": "3", "3": "yes"}
    assert score_vqa(**given).interval() == (43.85, 100.0)


def test_few_answers_are_told_of() -> None:
    given = files()
    given["annotations"]["annotations"][0]["answers"] = people("cat", "cat")
    score = score_vqa(**given)
    assert (score.capped, round(score.marks[0], 3)) == (1, 0.333)


def test_a_part_is_scored_when_asked_for_and_says_so() -> None:
    given = files()
    del given["predictions"][0]
    given["predictions"].append({"question_id": 99, "answer": "?"})
    score = score_vqa(**given, partial=True)
    assert (score.overall, score.unanswered, score.unknown) == (65.0, 1, 1)
    facts = score.facts()
    assert (facts["partial"], facts["questions"], facts["unanswered"], facts["unknown_predictions"]) == (True, 2, 1, 1)


def test_a_whole_is_not_partial() -> None:
    assert not score_vqa(**files(), partial=True).partial


def _without_answers(given: Files) -> None:
    for record in given["annotations"]["annotations"]:
        del record["answers"]


def _set(path: str, value: Any) -> Callable[[Files], None]:
    """Sets what `path` leads to; a trailing + appends."""

    def change(given: Files) -> None:
        *way, last = path.split("/")
        place: Any = given
        for step in way:
            place = place[int(step) if step.isdigit() else step]
        if last == "+":
            place.append(copy.deepcopy(value))
        else:
            place[int(last) if last.isdigit() else last] = value

    return change


BAD: dict[str, tuple[Callable[[Files], None], str]] = {
    "annotations without answers": (_without_answers, "annotation 1 .question 1. has no answers"),
    "an empty list of answers": (_set("annotations/annotations/1/answers", []), "question 2. has no answers"),
    "a question twice": (_set("questions/questions/+", {"question_id": 2}), "question 2 stands there more than once"),
    "an annotation twice": (_set("annotations/annotations/2/question_id", 1), "question 1 is annotated more than once"),
    "a prediction twice": (_set("predictions/+", {"question_id": 2, "answer": "2"}), "2 has more than one prediction"),
    "twice, as number and text": (_set("predictions/+", {"question_id": "2", "answer": "2"}), "nothing asks"),
    "too few predictions": (
        lambda given: given["predictions"].pop(),
        "questions without a prediction: 1 of 3 .the first: 2",
    ),
    "too many predictions": (_set("predictions/+", {"question_id": 9, "answer": ""}), "nothing asks: 1 .the first: 9"),
    "a number as prediction": (_set("predictions/0/answer", 2), "has a number .2. for its answer"),
    "no prediction": (_set("predictions/0/answer", None), "has nothing for its answer"),
    "a number as answer": (_set("annotations/annotations/0/answers/3/answer", 2), "has a number .2. among its answers"),
    "no annotations": (_set("annotations/annotations", []), "has no annotations"),
    "no questions": (_set("questions/questions", []), "has no questions"),
    "no predictions": (_set("predictions", []), "has no predictions"),
    "files exchanged": (lambda g: g.update(annotations=g["questions"]), "looks like what --questions wants"),
    "questions of another split": (
        _set("questions/questions/0/question_id", 7),
        "questions without an annotation: 1 .the first: 7",
    ),
    "a list of texts": (_set("predictions", ["yes"]), "prediction 1 is text .yes., not an object"),
    "no id": (_set("predictions/0", {"answer": "yes"}), "prediction 1 has no question id .it has: answer"),
    "LLaVA": (_set("predictions/0", {"question_id": 1, "text": "a"}), "not text .it has: question_id, text"),
    "a fraction as id": (_set("predictions/0/question_id", 1.5), "a number .1.5. for its question_id"),
    "type that is no text": (_set("annotations/annotations/0/answer_type", [1]), "for a type"),
    "GQA": (_set("annotations", {"7": {"question": "?", "answer": "yes"}}), "one answer a question, as GQA does"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_told(name: str) -> None:
    given = files()
    change, told = BAD[name]
    change(given)
    with pytest.raises(UserError, match=told):
        score_vqa(**given)


def test_one_answer_a_question_is_refused() -> None:
    given = files()
    for record in given["annotations"]["annotations"]:
        del record["answers"][1:]
    with pytest.raises(UserError, match="each question has one answer"):
        score_vqa(**given)


def test_nothing_in_common_is_refused_even_as_a_part() -> None:
    given = files()
    given["predictions"] = [{"question_id": 77, "answer": "yes"}]
    with pytest.raises(UserError, match="without a prediction: 3 of 3"):
        score_vqa(**given, partial=True)


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(UserError, match=r"no rule 'offical'[\s\S]*official"):
        score_vqa(**files(), rule="offical")
