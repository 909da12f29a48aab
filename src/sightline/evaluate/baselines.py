"""What an accuracy is measured against: answering from the text alone, one answer for all, and other images."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from sightline.data.row import ImageRef, Row
from sightline.evaluate.score import normalise


@dataclass(frozen=True, slots=True)
class TextOnly:
    """The most frequent training answer of each question text, and of all of them together."""

    by_question: dict[str, str]
    overall: str

    def answer(self, question: str) -> str:
        """The best answer the training data gives to whoever does not look at the image."""
        return self.by_question.get(normalise(question), self.overall)


def text_only(train_rows: Iterable[Row]) -> TextOnly | None:
    """Count the answers of every turn of `train_rows`; None where there is no answer to count. Ties: the first seen.

    A row that several data sets select (it stands at one place of one file) counts once.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    overall: Counter[str] = Counter()
    for row in {row.where: row for row in train_rows}.values():
        for question, answer in _exchanges(row):
            counts[normalise(question)][answer] += 1
            overall[answer] += 1
    if not overall:
        return None
    by_question = {question: answers.most_common(1)[0][0] for question, answers in counts.items()}
    return TextOnly(by_question, overall.most_common(1)[0][0])


def text_ceiling(rows: Sequence[Row]) -> float:
    """The accuracy of the best possible answer per question text, chosen with the answers of `rows` in hand.

    Nothing that sees the question alone can score higher on these rows. It flatters where questions are rare: a
    question that is asked once counts as right.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        counts[normalise(row.question)][normalise(row.answer)] += 1
    return sum(max(answers.values()) for answers in counts.values()) / len(rows)


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


def _exchanges(row: Row) -> Iterator[tuple[str, str]]:
    question = ""
    for turn in row.turns:
        if turn.role == "user":
            question = turn.text
        elif turn.role == "assistant":
            yield question, normalise(turn.text)
