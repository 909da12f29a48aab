"""Readers of VQA data sets: each in the format of its authors, with and without answers, and with what can be wrong."""

from __future__ import annotations

import gzip
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sightline.data.dataset import Rows, read_rows
from sightline.data.encode import RowError, validate
from sightline.data.images import load_image
from sightline.errors import UserError
from sightline.recipe.schema import DataSpec
from tests.data.made import picture

PEOPLE = ["net"] * 4 + ["netting"] * 3 + ["mesh"] * 3


def _write(path: Path, content: Any, *, zipped: bool = False) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    return str(path)


def _said(answers: list[str]) -> list[dict[str, Any]]:
    return [{"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers, start=1)]


def _question(id_: Any, image: Any = 42, text: Any = "What is this?") -> dict[str, Any]:
    return {"question_id": id_, "image_id": image, "question": text}


def _note(id_: Any, image: Any = 42, answers: Any = None, **more: Any) -> dict[str, Any]:
    said = _said(PEOPLE if answers is None else answers)
    told = {"question_id": id_, "image_id": image, "answers": said, "answer_type": "other", "question_type": "what is"}
    return told | more


@pytest.fixture
def vqa(tmp_path: Path) -> Callable[..., Rows]:
    """A function that writes VQAv2 files, plain or gzipped, and reads them."""
    for image in (42, 43):
        picture("red", (8, 8)).save(_folder(tmp_path / "val2014") / f"COCO_val2014_{image:012d}.jpg")

    def read(
        questions: Any, notes: Any = None, *, zipped: bool = False, subset: str | None = "val2014", **spec: Any
    ) -> Rows:
        document = questions if isinstance(questions, dict) else {"questions": questions}
        document |= {"data_subtype": subset} if subset else {}
        told = {"annotations": notes} if isinstance(notes, list) else notes
        given: dict[str, Any] = {"path": _write(tmp_path / "questions.json", document, zipped=zipped)}
        if notes is not None:
            given["annotations"] = _write(tmp_path / "annotations.json", told, zipped=zipped)
        return read_rows(DataSpec(reader="vqa", **given | {"images": str(tmp_path / "val2014")} | spec), "val")

    return read


def _folder(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.mark.parametrize("zipped", [False, True])
def test_vqa_joins_questions_and_answers(vqa: Callable[..., Rows], zipped: bool) -> None:
    notes = [_note(2, 43, ["yes"] * 10, answer_type="yes/no"), _note(1, multiple_choice_answer="netting")]
    first, second = vqa([_question(1), _question(2, 43)], notes, zipped=zipped)
    assert first.answers == tuple(PEOPLE)
    assert first.answer == "netting", "the most common answer is the one that the data set says it is"
    assert first.fields | {} == {
        "question_id": "1",
        "image_id": "42",
        "answer_type": "other",
        "question_type": "what is",
        "multiple_choice_answer": "netting",
    }
    assert first.images[0].path is not None and first.images[0].path.name == "COCO_val2014_000000000042.jpg"
    assert (second.answer, second.fields["answer_type"]) == ("yes", "yes/no")


def test_vqa_without_annotations_is_a_test_split(vqa: Callable[..., Rows]) -> None:
    (row,) = vqa([_question(1)])
    assert (row.answers, row.answer, row.answered, row.question) == ((), "", False, "What is this?")
    assert row.turns[-1].role == "user"
    with pytest.raises(RowError, match="nothing to learn from"):
        validate(row)  # what training does


def test_the_dev_part_of_a_test_split_asks_about_the_same_images(vqa: Callable[..., Rows], tmp_path: Path) -> None:
    picture("red", (8, 8)).save(tmp_path / "val2014" / "COCO_test2015_000000000042.jpg")
    (row,) = vqa([_question(1)], subset="test-dev2015")
    assert row.images[0].path is not None and row.images[0].path.name == "COCO_test2015_000000000042.jpg"


def test_images_go_by_a_pattern_or_are_left_out(vqa: Callable[..., Rows], tmp_path: Path) -> None:
    picture("red", (8, 8)).save(tmp_path / "val2014" / "42.png")
    (row,) = vqa([_question(1)], file_name="{image_id}.png", subset=None)
    assert row.images[0].path is not None and row.images[0].path.name == "42.png"
    (row,) = vqa([_question(1, 7)], file_name="none", subset=None)
    assert row.images == () and row.question == "What is this?"
    (row,) = vqa([_question(1)], split="val2014", subset=None)
    assert row.images[0].path is not None and row.images[0].path.name.startswith("COCO_val2014_")


def test_the_target_is_sampled_as_often_as_people_said_it(vqa: Callable[..., Rows]) -> None:
    questions, notes = [_question(i) for i in range(2000)], [_note(i) for i in range(2000)]
    rows = vqa(questions, notes, target="sampled").rows
    shares = Counter(row.answer for row in rows)
    assert shares["net"] / 2000 == pytest.approx(0.4, abs=0.04)
    assert shares["mesh"] / 2000 == pytest.approx(0.3, abs=0.04)
    again = vqa(questions, notes, target="sampled").rows
    other = vqa(questions, notes, target="sampled", seed=1).rows
    assert [row.answer for row in again] == [row.answer for row in rows] != [row.answer for row in other]
    assert {row.answer for row in vqa(questions, notes)} == {"net"}


def test_a_prompt_is_put_around_every_question(vqa: Callable[..., Rows]) -> None:
    (row,) = vqa([_question(1, text="What {is} this?")], prompt="{question}\nAnswer in one word.")
    assert row.question == "What {is} this?\nAnswer in one word."


BAD_VQA: dict[str, tuple[Any, Any, str]] = {
    "no questions": ([], None, "its list of 'questions' is empty"),
    "no annotations": ([_question(1)], [], "its list of 'annotations' is empty"),
    "swapped": ({"annotations": [_note(1)]}, None, "has no list of 'questions'.*annotations"),
    "swapped back": ([_question(1)], {"questions": [_question(1)]}, "has no list of 'annotations'.*questions' file"),
    "a question twice": ([_question(1), _question(1)], None, "row 2: has the question id 1, and so has row 1"),
    "an annotation twice": ([_question(1)], [_note(1), _note(1)], "row 2: has the question id 1, and so has row 1"),
    "no id": ([_question(None)], None, "row 1: has the question id None"),
    "no annotation": ([_question(1), _question(2)], [_note(1)], "row 2: question 2 has no annotation in"),
    "no answers": ([_question(1)], [_note(1, answers=[])], r"annotations.json row 1: its answers are \[\]"),
    "answers absent": ([_question(1)], [{"question_id": 1, "image_id": 42}], "annotations.json row 1: its answers are"),
    "an answer is a number": ([_question(1)], [_note(1, answers=["a", 2])], "row 1: its answer 2 is 2, not text"),
    "answers are empty": ([_question(1)], [_note(1, answers=["", " "])], "its 2 answers are all empty"),
    "another image": ([_question(1)], [_note(1, 43)], "question 1 is about image 42, and .* about image 43"),
    "no image": ([_question(1, 99)], None, "row 1: image .*COCO_val2014_000000000099.jpg does not exist"),
    "image id is no id": ([_question(1, None)], None, "row 1: its image id is None"),
    "no text": ([_question(1, text=" ")], None, "row 1: its question is ' ', not text"),
    "no object": (["What?"], None, "row 1: is a str, not an object"),
}


@pytest.mark.parametrize("case", BAD_VQA)
def test_what_is_wrong_is_told_once_with_its_place(vqa: Callable[..., Rows], case: str) -> None:
    questions, notes, message = BAD_VQA[case]
    with pytest.raises(UserError) as error:
        vqa(questions, notes)
    assert re.search(message, str(error.value), flags=re.DOTALL), str(error.value)


def test_a_pattern_that_does_not_fit_is_told(vqa: Callable[..., Rows]) -> None:
    with pytest.raises(UserError, match="no file name for image 'n42'"):
        vqa([_question(1, "n42")])
    with pytest.raises(UserError, match=r"does not say which COCO images.*\n.*split=train2014"):
        vqa([_question(1)], subset=None)
    with pytest.raises(UserError, match=r"no file .*absent.json"):
        vqa([_question(1)], annotations="absent.json")


def test_broken_questions_can_be_skipped_and_are_counted(vqa: Callable[..., Rows]) -> None:
    rows = vqa([_question(1), _question(1), "?", _question(3, 99)], [_note(1), _note(3, 99)], broken="skip")
    assert len(rows) == 1
    assert [each.where.row for each in rows.skipped] == [2, 3, 4]


def test_a_broken_gzip_is_told(tmp_path: Path) -> None:
    path = tmp_path / "questions.json"
    path.write_bytes(gzip.compress(json.dumps({"questions": [_question(1)] * 50}).encode())[:-20])
    with pytest.raises(UserError, match="is gzipped, and broken"):
        read_rows(DataSpec(reader="vqa", path=str(path)), "val")


def test_keys_of_other_readers_are_refused() -> None:
    with pytest.raises(ValueError, match="'annotations' is read by vqa, and 'reader' is gqa"):
        DataSpec(reader="gqa", path="x.json", annotations="y.json")
    with pytest.raises(ValueError, match="'prompt' is read by vqa, textvqa"):
        DataSpec(reader="llava", path="x.json", prompt="{question}!")
    with pytest.raises(ValueError, match=r"does not hold one {question}"):
        DataSpec(reader="vqa", path="x.json", prompt="Answer.")


# --- the others -------------------------------------------------------------------------------------------------------


def _textvqa(tmp_path: Path, **more: Any) -> Rows:
    picture("red", (8, 8)).save(_folder(tmp_path / "train_images") / "0054c91397f2fe05.jpg")
    record = {"question": "what is the brand of phone?", "image_id": "0054c91397f2fe05", "question_id": 0}
    document = {"dataset_type": "train", "dataset_name": "textvqa", "data": [record | more]}
    path = _write(tmp_path / "TextVQA_0.5.1_train.json", document)
    return read_rows(DataSpec(reader="textvqa", path=path, images=str(tmp_path / "train_images")), "text")


def test_textvqa(tmp_path: Path) -> None:
    (row,) = _textvqa(tmp_path, answers=["nokia"] * 9 + ["toshiba"], set_name="train", question_tokens=["what"])
    assert (row.answer, len(row.answers), row.fields["task"]) == ("nokia", 10, "reading")
    (row,) = _textvqa(tmp_path)
    assert not row.answered and row.answers == ()
    with pytest.raises(RowError, match=r"row 1: its answers are \[\]"):
        _textvqa(tmp_path, answers=[])


def _vizwiz(tmp_path: Path, *records: dict[str, Any]) -> Rows:
    picture("red", (8, 8)).save(_folder(tmp_path / "train") / "VizWiz_train_00000000.jpg")
    path = _write(tmp_path / "train.json", list(records))
    return read_rows(DataSpec(reader="vizwiz", path=path, images=str(tmp_path / "train")), "vizwiz")


def test_vizwiz(tmp_path: Path) -> None:
    asked = {"image": "VizWiz_train_00000000.jpg", "question": "What's the name of this product?"}
    said = [{"answer_confidence": "yes", "answer": "basil leaves"}] * 6 + [
        {"answer_confidence": "no", "answer": "basil"}
    ]
    (row,) = _vizwiz(tmp_path, asked | {"answers": said, "answer_type": "other", "answerable": 1})
    assert (row.answer, len(row.answers)) == ("basil leaves", 7)
    assert row.fields["question_id"] == row.fields["image_id"] == "VizWiz_train_00000000.jpg"
    assert (row.fields["answer_type"], row.fields["answerable"]) == ("other", "1")
    (row,) = _vizwiz(tmp_path, asked)
    assert not row.answered
    with pytest.raises(RowError, match=r"row 2: has the image VizWiz_train_00000000.jpg, and so has row 1"):
        _vizwiz(tmp_path, asked, asked)
    with pytest.raises(RowError, match="row 2: its answers are None"):
        _vizwiz(tmp_path, asked | {"answers": said}, asked | {"image": "VizWiz_train_00000001.jpg"})


GQA = {
    "semantic": [{"operation": "select", "dependencies": [], "argument": "scene"}],
    "entailed": ["20644645"],
    "question": "Which room is it?",
    "imageId": "n250821",
    "isBalanced": True,
    "groups": {"global": "room", "local": "02q-room"},
    "answer": "bedroom",
    "semanticStr": "select: scene",
    "types": {"detailed": "place", "semantic": "global", "structural": "query"},
    "fullAnswer": "It is a bedroom.",
}


def _gqa(tmp_path: Path, text: Any) -> Rows:
    picture("red", (8, 8)).save(_folder(tmp_path / "images") / "n250821.jpg")
    path = _write(tmp_path / "val_balanced_questions.json", text)
    return read_rows(DataSpec(reader="gqa", path=path, images=str(tmp_path / "images")), "gqa")


def test_gqa(tmp_path: Path) -> None:
    (row,) = _gqa(tmp_path, {"20644644": GQA})
    assert (row.answer, row.answers) == ("bedroom", ("bedroom",))
    assert {key: row.fields[key] for key in ("question_id", "image_id", "structural", "semantic", "detailed")} == {
        "question_id": "20644644",
        "image_id": "n250821",
        "structural": "query",
        "semantic": "global",
        "detailed": "place",
    }
    assert row.fields["question_type"] == "query" and row.fields["full_answer"] == "It is a bedroom."
    test_split = {key: GQA[key] for key in ("question", "imageId", "isBalanced")}
    (row,) = _gqa(tmp_path, {"201971873": test_split})
    assert not row.answered and row.fields["question_id"] == "201971873"
    with pytest.raises(RowError, match="row 2: its answer 1 is None, not text"):
        _gqa(tmp_path, {"1": GQA, "2": test_split})
    with pytest.raises(UserError, match="holds the key '1' twice"):
        _gqa(tmp_path, f'{{"1": {json.dumps(GQA)}, "1": {json.dumps(GQA)}}}')
    for empty in ({}, []):
        with pytest.raises(UserError, match="is empty, so there are no rows"):
            _gqa(tmp_path, empty)


def test_nlvr2(tmp_path: Path) -> None:
    record = {
        "sentence": "An image shows one dog.",
        "left_url": "http://a/1.jpg",
        "right_url": "http://a/2.jpg",
        "label": "True",
        "identifier": "dev-850-0-1",
        "synset": "dog",
    }
    for side in (0, 1):
        picture("red", (8, 8)).save(_folder(tmp_path / "dev") / f"dev-850-0-img{side}.png")
        picture("red", (8, 8)).save(_folder(tmp_path / "images" / "7") / f"train-1-0-img{side}.png")
    path = _write(tmp_path / "dev.json", json.dumps(record) + "\n" + json.dumps(record | {"identifier": "dev-850-0-0"}))
    rows = read_rows(DataSpec(reader="nlvr", path=path, images=str(tmp_path / "dev")), "dev").rows
    assert len(rows) == 2 and [image.path.name for image in rows[0].images if image.path] == [
        "dev-850-0-img0.png",
        "dev-850-0-img1.png",
    ]
    assert (rows[0].answer, rows[0].answers, rows[0].fields["image_id"]) == ("true", ("true",), "dev-850-0")
    trained = record | {"identifier": "train-1-0-0", "directory": 7, "label": "False"}
    path = _write(tmp_path / "train.json", json.dumps(trained))
    (row,) = read_rows(DataSpec(reader="nlvr", path=path, images=str(tmp_path / "images")), "train")
    assert row.answer == "false"
    del record["label"]
    path = _write(tmp_path / "hidden.json", json.dumps(record))
    (row,) = read_rows(DataSpec(reader="nlvr", path=path, images=str(tmp_path / "dev")), "hidden")
    assert not row.answered
    path = _write(tmp_path / "dev.json", json.dumps(record | {"label": "maybe"}))
    with pytest.raises(RowError, match="its label is 'maybe', neither true nor false"):
        read_rows(DataSpec(reader="nlvr", path=path, images=str(tmp_path / "dev")), "dev")


def test_tables_of_what_people_answered(tmp_path: Path) -> None:
    picture("red", (8, 8)).save(tmp_path / "a.png")
    record = {"image": "a.png", "question": "What is this?", "answers": _said(PEOPLE), "question_id": 7}
    more = [record, record | {"multiple_choice_answer": "mesh"}, record | {"answers": ["cat"], "answer": "a cat"}]
    rows = read_rows(DataSpec(reader="table", path=_write(tmp_path / "rows.json", more)), "rows").rows
    assert [row.answer for row in rows] == ["net", "mesh", "a cat"]
    assert [len(row.answers) for row in rows] == [10, 10, 1] and rows[0].fields["question_id"] == "7"
    with pytest.raises(RowError, match="row 1: its answer 2 is None, not text"):
        path = _write(tmp_path / "rows.json", [record | {"answers": ["a", None]}])
        read_rows(DataSpec(reader="table", path=path), "rows")


# --- the real thing ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_real_nlvr_from_its_tar_and_from_its_folder(shared: Path, tmp_path: Path) -> None:
    rows = read_rows(DataSpec(reader="nlvr", path=str(shared / "nlvr" / "dev.tar")), "dev").rows
    assert len(rows) == 989 * 6
    assert Counter(row.answer for row in rows).most_common(1)[0][1] / len(rows) == pytest.approx(0.553, abs=5e-4)
    assert load_image(rows[9].images[0], rows[9].where).size == (400, 100)
    with tarfile.open(shared / "nlvr" / "dev.tar") as tar:
        wanted = {rows[i].fields["question_id"] for i in range(6)}
        members = [m for m in tar if m.name.endswith(".json") or m.name.rsplit("/")[-1] in wanted]
        tar.extractall(tmp_path, members, filter="data")
    unpacked = read_rows(DataSpec(reader="nlvr", path=str(tmp_path / "dev"), limit=6), "dev").rows
    for tarred, loose in zip(rows, unpacked, strict=False):
        assert (tarred.question, tarred.answer, tarred.fields) == (loose.question, loose.answer, loose.fields)
        assert load_image(tarred.images[0], tarred.where) == load_image(loose.images[0], loose.where)
    with pytest.raises(RowError, match=r"dev.json row 2: image .*dev-3125-1-0.png does not exist"):
        read_rows(DataSpec(reader="nlvr", path=str(tmp_path / "dev")), "dev")


@pytest.mark.slow
def test_real_vqav2_questions_join_their_answers(shared: Path) -> None:
    folder = shared / "vqav2_text"
    spec = DataSpec(
        reader="vqa",
        path=str(folder / "vqa_questions_valid.gzip"),
        annotations=str(folder / "vqa_annotatons_valid.gzip"),
        file_name="none",
    )
    rows = read_rows(spec, "valid").rows
    assert len(rows) == 8977 and all(len(row.answers) == 10 for row in rows)
    for row in rows:  # the data set's own most common answer is one of the most common ones
        assert row.answers.count(row.answer) == max(Counter(row.answers).values())
    sampled = read_rows(spec.model_copy(update={"target": "sampled"}), "valid").rows
    agreed = sum(row.answers.count(row.answer) for row in sampled) / len(sampled)
    expected = sum(sum(n * n for n in Counter(row.answers).values()) / 10 for row in rows) / len(rows)
    assert agreed == pytest.approx(expected, rel=0.02), "as many people as an answer drawn from theirs would have"
