"""Questions, annotations and predictions of VQA data sets, in the shapes that their files have.

- VQAv2, OK-VQA: `{"annotations": [{question_id, answers: [{answer, answer_confidence, answer_id}]}]}`, and questions
  likewise;
- TextVQA: `{"data": [{question_id, answers: [text]}]}`, questions and answers in one file;
- VizWiz: `[{image, answers: [{answer, answer_confidence}]}]`, questions known by their image, answers without ids;
- predictions: `[{question_id, answer}]`, GQA's `[{questionId, prediction}]`, VizWiz' `[{image, answer}]`, or
  `{question id: answer}`; a list may stand under `predictions` or `results`.

Question ids are whole numbers or text. Where two files disagree on that, 17 is "17".
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any

from sightline.errors import UserError
from sightline.evaluate.json_file import Source, members

Id = int | str
ID_NAMES = ("question_id", "questionId", "image")
ANSWER_NAMES = ("answer", "prediction")
QUESTIONS, ANNOTATIONS, PREDICTIONS = "--questions", "--annotations", "--predictions"
LISTS = {
    QUESTIONS: ("questions", "data", "annotations"),
    ANNOTATIONS: ("annotations", "data"),
    PREDICTIONS: ("predictions", "results", "data"),
}


# The question, what people answered, what stands beside each answer where no id tells entries apart, and the record.
Annotation = tuple[Id, list[str], list[Hashable] | None, dict[str, Any]]


def annotated(source: Source) -> Iterator[Annotation]:
    """The annotations of a file, in its order. Raises UserError where one has no answers, or they are no text."""
    for number, record in _records(source, ANNOTATIONS):
        try:
            entries = record["answers"]
            by_id = {entry["answer_id"]: entry["answer"] for entry in entries}
            answers = list(by_id.values())
            "".join(answers)  # raises where one is no text; four times as fast as asking each
            if len(answers) == len(entries) > 0:
                yield identity(record, ANNOTATIONS, number), answers, None, record
                continue
        except (KeyError, TypeError):
            pass  # of another shape, or broken: looked at closely
        yield _annotation(record, number)


def asked(source: Source) -> list[Id]:
    """The ids of the questions of a file."""
    return _distinct((identity(record, QUESTIONS, number) for number, record in _records(source, QUESTIONS)), QUESTIONS)


def predicted(source: Source) -> dict[Id, str]:
    """The answer predicted for each question. Raises UserError where one is no text, or a question has two."""
    found: dict[Id, str] = {}
    for number, record in _records(source, PREDICTIONS):
        question = identity(record, PREDICTIONS, number)
        answer = next((record[name] for name in ANSWER_NAMES if name in record), None)
        if not isinstance(answer, str):
            raise UserError(
                f"prediction {number} (question {question}) has {_told(answer)} for its answer, not text",
                where=PREDICTIONS,
                fix=f'write each as {{"question_id": {question!r}, "answer": "yes"}}',
            )
        if question in found:
            raise UserError(f"question {question} has more than one prediction", where=PREDICTIONS)
        found[question] = answer
    return found


def identity(record: dict[str, Any], file: str, number: int) -> Id:
    """The id of a record's question."""
    for name in ID_NAMES:
        if name in record:
            value = record[name]
            if type(value) is int or type(value) is str:
                return value
            raise UserError(
                f"{_kind(file)} {number} has {_told(value)} for its {name}, not a whole number or text", where=file
            )
    names = ", ".join(list(record)[:8]) or "nothing"
    raise UserError(
        f"{_kind(file)} {number} has no question id (it has: {names})",
        where=file,
        fix=f"give it one of: {', '.join(ID_NAMES)}",
    )


def _records(source: Source, file: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The records of the list that `file` should have, numbered from 1."""
    known, named, number = LISTS[file], {}, 0
    empty = False
    for name, record in members(source, file):
        if name is not None and name not in known:
            named[name] = record
        elif record == []:
            empty = True
        elif isinstance(record, dict):
            number += 1
            yield number, record
        else:
            raise UserError(
                f"{_kind(file)} {number + 1} is {_told(record)}, not an object with named fields", where=file
            )
    if number:
        return
    if named and file == PREDICTIONS and all(isinstance(value, str) for value in named.values()):
        yield from enumerate(({"question_id": name, "answer": value} for name, value in named.items()), start=1)
    elif empty or not named:
        raise UserError(f"has no {known[0]}: the list is empty", where=file)
    else:
        raise _nothing_known(named, file)


def _nothing_known(named: dict[str, Any], file: str) -> UserError:
    """The file has no list of the kind; say what it seems to be."""
    wanted = LISTS[file][0]
    if all(isinstance(value, dict) and "answer" in value for value in named.values()):
        return UserError(
            f"has one answer a question, as GQA does, and no list '{wanted}': rules that leave one person out give 0",
            where=file,
            fix="judge a run on GQA with evaluate.metric: exact-match",
        )
    other = next((flag for flag, names in LISTS.items() if flag != file and names[0] in named), None)
    hint = f"; it looks like what {other} wants" if other else ""
    return UserError(f"has no list '{wanted}' (it has: {', '.join(list(named)[:8])}){hint}", where=file)


def _annotation(record: dict[str, Any], number: int) -> Annotation:
    question = identity(record, ANNOTATIONS, number)
    place = f"annotation {number} (question {question})"
    entries = record.get("answers")
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"{place} has no answers",
            where=ANNOTATIONS,
            fix="a test split has none to score against: submit the predictions to the data set's server",
        )
    texts: list[str] = []
    for entry in entries:
        answer = entry.get("answer") if isinstance(entry, dict) else entry
        if not isinstance(answer, str):
            raise UserError(f"{place} has {_told(answer)} among its answers, not text", where=ANNOTATIONS)
        texts.append(answer)
    if not all(isinstance(entry, dict) for entry in entries):  # bare text: each is a person's
        return question, texts, None, record
    besides: list[Hashable] = [
        repr(sorted((name, value) for name, value in entry.items() if name != "answer")) for entry in entries
    ]
    return question, texts, besides if len(set(besides)) < len(besides) else None, record


def _distinct(ids: Iterator[Id], file: str) -> list[Id]:
    found: dict[Id, None] = {}
    for each in ids:
        if each in found:
            raise UserError(f"question {each} stands there more than once", where=file)
        found[each] = None
    return list(found)


def _kind(file: str) -> str:
    return LISTS[file][0].removesuffix("s")


def _told(value: Any) -> str:
    """`value` in a few words."""
    if value is None:
        return "nothing"
    kinds = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object", str: "text"}
    return f"{kinds.get(type(value), type(value).__name__)} ({str(value)[:40]})"
