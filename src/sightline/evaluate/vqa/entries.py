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

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, NamedTuple

from sightline.errors import UserError
from sightline.evaluate.json_file import Source, members
from sightline.evaluate.vqa import usual

Id = int | str
ID_NAMES = ("question_id", "questionId", "image")
IDS = frozenset({int, str})
QUESTIONS, ANNOTATIONS, PREDICTIONS = "--questions", "--annotations", "--predictions"
LISTS = {
    QUESTIONS: ("questions", "data", "annotations"),
    ANNOTATIONS: ("annotations", "data"),
    PREDICTIONS: ("predictions", "results", "data"),
}


class Annotation(NamedTuple):
    """What people answered to one question, in the file's order.

    Attributes:
        besides: what stands beside each answer in its entry, where no id tells entries apart; else None.
        answer_type, question_type, image: as the file says; None where it does not.
    """

    question: Id
    answers: list[str]
    besides: list[Hashable] | None
    answer_type: str | None
    question_type: str | None
    image: Id | None


def annotated(source: Source) -> Iterator[Annotation]:
    """The annotations of a file, in its order. Raises UserError where one has no answers, or they are no text."""
    done = 0
    for usually in usual.annotated(source, ANNOTATIONS):
        by_id = {entry.answer_id: entry.answer for entry in usually.answers}
        if not len(usually.answers) == len(by_id) > 0:
            break
        done += 1
        types = usually.answer_type, usually.question_type
        yield Annotation(usually.question_id, list(by_id.values()), None, *types, usually.image_id)
    else:
        if done:
            return
    for first, batch in _batches(source, ANNOTATIONS):
        for number, record in enumerate(batch, first):
            if number > done:
                yield _annotation(record, number)


def asked(source: Source) -> set[Id]:
    """The ids of the questions of a file. Raises UserError where one stands there twice."""
    found = [record.question_id for record in usual.asked(source, QUESTIONS)]
    if not found:
        for first, batch in _batches(source, QUESTIONS):
            found += [identity(record, QUESTIONS, number) for number, record in enumerate(batch, first)]
    distinct = set(found)
    if len(distinct) < len(found):
        raise UserError(f"question {twice(found)} stands there more than once", where=QUESTIONS)
    return distinct


def predicted(source: Source) -> dict[Id, str]:
    """The answer predicted for each question. Raises UserError where one is no text, or a question has two."""
    pairs = [(record.question_id, record.answer) for record in usual.predicted(source, PREDICTIONS)]
    if not pairs:
        for first, batch in _batches(source, PREDICTIONS):
            pairs += [_prediction(record, number) for number, record in enumerate(batch, first)]
    found = dict(pairs)
    if len(found) < len(pairs):
        again = twice(question for question, _ in pairs)
        raise UserError(f"question {again} has more than one prediction", where=PREDICTIONS)
    return found


def _prediction(record: dict[str, Any], number: int) -> tuple[Id, str]:
    question = identity(record, PREDICTIONS, number)
    answer = record["answer"] if "answer" in record else record.get("prediction")
    if not isinstance(answer, str):
        raise UserError(
            f"prediction {number} (question {question}) has {_told(answer)} for its answer, not text{_fields(record)}",
            where=PREDICTIONS,
            fix=f'write each as {{"question_id": {question!r}, "answer": "yes"}}',
        )
    return question, answer


def twice(questions: Iterable[Id]) -> Id:
    """The question that stands there most often."""
    return Counter(questions).most_common(1)[0][0]


def identity(record: dict[str, Any], file: str, number: int) -> Id:
    """The id of a record's question."""
    for name in ID_NAMES:
        if name in record:
            value = record[name]
            if type(value) in IDS:
                return value
            raise UserError(
                f"{_kind(file)} {number} has {_told(value)} for its {name}, not a whole number or text", where=file
            )
    raise UserError(
        f"{_kind(file)} {number} has no question id{_fields(record)}",
        where=file,
        fix=f"give it one of: {', '.join(ID_NAMES)}",
    )


def _batches(source: Source, file: str) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The records of the list that `file` should have, in batches, each with the number of its first (from 1)."""
    known, number = LISTS[file], 1
    named: dict[str, Any] = {}
    empty = False
    for name, value in members(source, file):
        if name is not None and name not in known:
            named[name] = value
        elif not isinstance(value, list):
            raise UserError(f"has {_told(value)} under '{name}', not a list", where=file)
        elif set(map(type, value)) <= {dict}:
            empty = empty or not value
            yield number, value
            number += len(value)
        else:
            place, odd = next(each for each in enumerate(value, number) if not isinstance(each[1], dict))
            raise UserError(f"{_kind(file)} {place} is {_told(odd)}, not an object with named fields", where=file)
    if number > 1:
        return
    if named and file == PREDICTIONS and all(isinstance(value, str) for value in named.values()):
        yield 1, [{"question_id": name, "answer": value} for name, value in named.items()]
    elif not empty and set(ID_NAMES) & set(named):  # a single line of JSON lines
        yield 1, [named]
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
    entries: Any = record.get("answers")
    image, types = record.get("image_id", record.get("image")), (record.get("answer_type"), record.get("question_type"))
    try:  # of the usual shape
        by_id = {entry["answer_id"]: entry["answer"] for entry in entries}
        answers = list(by_id.values())
        "".join(answers)  # raises where one is no text; faster than asking each
        if all(type(kind) is str for kind in types) and len(answers) == len(entries) > 0 and type(image) in IDS:
            return Annotation(question, answers, None, *types, image)
    except (KeyError, TypeError):
        pass
    place = f"annotation {number} (question {question})"
    if not isinstance(entries, list) or not entries:
        raise UserError(
            f"{place} has no answers{_fields(record)}",
            where=ANNOTATIONS,
            fix="a test split has none to score against: submit the predictions to the data set's server",
        )
    answers = [entry.get("answer") if isinstance(entry, dict) else entry for entry in entries]
    if odd := [answer for answer in answers if not isinstance(answer, str)]:
        raise UserError(f"{place} has {_told(odd[0])} among its answers, not text", where=ANNOTATIONS)
    for kind in types:
        if kind is not None and not isinstance(kind, str):
            raise UserError(f"{place} has {_told(kind)} for a type, not text", where=ANNOTATIONS)
    return Annotation(question, answers, _besides(entries), *types, image if type(image) in IDS else None)


def _besides(entries: list[Any]) -> list[Hashable] | None:
    """What tells entries apart that have no ids of their own. Bare text is a person's each."""
    if not all(isinstance(entry, dict) for entry in entries):
        return None
    numbers = [entry.get("answer_id") for entry in entries]
    if all(type(number) in IDS for number in numbers) and len(set(numbers)) == len(numbers):
        return None
    fields = [repr(sorted((name, value) for name, value in entry.items() if name != "answer")) for entry in entries]
    return list(fields) if len(set(fields)) < len(fields) else None


def _fields(record: dict[str, Any]) -> str:
    return f" (it has: {', '.join(list(record)[:8]) or 'nothing'})"


def _kind(file: str) -> str:
    return LISTS[file][0].removesuffix("s")


def _told(value: Any) -> str:
    """`value` in a few words."""
    if value is None:
        return "nothing"
    kinds = {bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "an object", str: "text"}
    return f"{kinds.get(type(value), type(value).__name__)} ({str(value)[:40]})"
