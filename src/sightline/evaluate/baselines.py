"""What an accuracy is measured against: answering from the text alone, one answer for all, and other images."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from sightline.data.row import ImageRef, Row
from sightline.evaluate.score import exact_match, normalise

TYPE = "question_type"  # VQAv2's field: the words that a question begins with
CANDIDATES = 20  # answers of a question text that are tried as its best one; a rarer one is never it


def by_exact_match(given: str, row: Row) -> float:
    """1 where `given` is the row's answer, else 0."""
    return float(exact_match(given, row.answer))


@dataclass(frozen=True, slots=True)
class TextOnly:
    """The most frequent training answer of each question text, of each type of question, and of all together."""

    by_question: dict[str, str]
    overall: str
    by_type: dict[str, str] = field(default_factory=dict)

    def answer(self, question: str, type_: str | None = None) -> str:
        """The best answer the training data gives to whoever does not look at the image."""
        found = self.by_question.get(normalise(question))
        return found if found is not None else self.by_type.get(type_ or "", self.overall)


def text_only(train_rows: Iterable[Row], written: Callable[[str], str] = normalise) -> TextOnly | None:
    """Count the answers of every turn of `train_rows`; None where there is no answer to count. Ties: the first seen.

    A row that several data sets select (it stands at one place of one file) counts once.

    Args:
        written: how an answer is counted and given. The VQA rules clean answers themselves, and not always.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    types: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for row in {row.where: row for row in train_rows}.values():
        for question, answer in _exchanges(row, written):
            counts[normalise(question)][answer] += 1
            types[row.fields.get(TYPE, "")][answer] += 1
            overall[answer] += 1
    if not overall:
        return None
    types.pop("", None)
    by_question, by_type = (
        {name: answers.most_common(1)[0][0] for name, answers in table.items()} for table in (counts, types)
    )
    return TextOnly(by_question, overall.most_common(1)[0][0], by_type)


def text_ceiling(rows: Sequence[Row], mark: Callable[[str, Row], float] = by_exact_match) -> float:
    """The accuracy of the best possible answer per question text, chosen with the answers of `rows` in hand.

    Nothing that sees the question alone can score higher on these rows. It flatters where questions are rare: a
    question that is asked once counts as right.
    """
    return sum(_best_marks(same, mark) for same in _by_question(rows).values()) / len(rows)


def settled_by_words(rows: Sequence[Row], mark: Callable[[str, Row], float] = by_exact_match) -> float | None:
    """`text_ceiling` of the questions that are asked about several images; None unless that is half of `rows`."""
    several = [
        same for same in _by_question(rows).values() if len({tuple(ref.key for ref in row.images) for row in same}) > 1
    ]
    asked = sum(map(len, several))
    return sum(_best_marks(same, mark) for same in several) / asked if asked and 2 * asked >= len(rows) else None


def _by_question(rows: Sequence[Row]) -> dict[str, list[Row]]:
    same: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        same[normalise(row.question)].append(row)
    return same


def _best_marks(rows: Sequence[Row], mark: Callable[[str, Row], float]) -> float:
    """The marks of `rows` together, all given the one answer that is best for them."""
    if mark is by_exact_match:
        return float(max(Counter(normalise(row.answer) for row in rows).values()))
    said = Counter(answer for row in rows for answer in row.answers or (row.answer,))
    return max(sum(mark(answer, row) for row in rows) for answer, _ in said.most_common(CANDIDATES))


def with_other_images(rows: Sequence[Row], seed: int) -> list[Row] | None:
    """`rows` with their images exchanged, so that no row keeps an image whose key it had.

    All distinct images stand in one seeded circle, and each row takes those that follow its own first image. With one
    image a row this is a cyclic permutation of the images, so all are used.

    Returns None where there are too few images for it, or none at all.
    """
    circle = list({image.key: image for row in rows for image in row.images}.values())
    random.Random(seed).shuffle(circle)
    place = {image.key: position for position, image in enumerate(circle)}
    exchanged = []
    for row in rows:
        others = _followers(circle, place, row)
        if len(others) < len(row.images):
            return None
        exchanged.append(replace(row, images=others))
    return exchanged if circle else None


def _followers(circle: Sequence[ImageRef], place: dict[str, int], row: Row) -> tuple[ImageRef, ...]:
    if not row.images:
        return ()
    own = {image.key for image in row.images}
    first = place[row.images[0].key]
    followers: list[ImageRef] = []
    for step in range(1, len(circle)):
        if len(followers) == len(row.images):
            break
        candidate = circle[(first + step) % len(circle)]
        if candidate.key not in own:
            followers.append(candidate)
    return tuple(followers)


def _exchanges(row: Row, written: Callable[[str], str]) -> Iterator[tuple[str, str]]:
    question = ""
    for turn in row.turns:
        if turn.role == "user":
            question = turn.text
        elif turn.role == "assistant":
            yield question, written(turn.text)
