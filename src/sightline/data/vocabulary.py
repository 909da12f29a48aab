"""Answer vocabulary: which answers can be chosen, and what each is worth as the answer to a question.

The usual recipe for VQAv2 takes the answers that are the most common one of at least 9 questions, cleaned as the
official evaluation cleans them: 3,129 on its train and val (Teney et al. 2017, arXiv 1708.02711, section 3.5;
github.com/hengyuan-hu/bottom-up-attention-vqa, tools/compute_softscore.py).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from sightline.atomic import write_text
from sightline.data.asked import most_common
from sightline.data.clean import clean, tidy
from sightline.data.row import Row
from sightline.errors import UserError

Rule = Literal["leave-one-out", "thirds"]
ENOUGH = 3  # people who agree make an answer right


def label(answer: str) -> str:
    """`answer` as the vocabulary holds it: cleaned, and without the commas that cleaning leaves inside numbers.

    Of "a", the answer to "what letter is it?", cleaning leaves nothing, and the usual list of 3,129 answers holds an
    empty one. Here it stays "a", which is right by the official rule also where nothing is cleaned.
    """
    return clean(answer).replace(",", "") or tidy(answer).lower()


def vocabulary(rows: Iterable[Row], min_count: int = 9, size: int | None = None) -> tuple[str, ...]:
    """The answers of `rows` that are frequent enough, most frequent first, equally frequent ones by the alphabet.

    A question counts for its most common answer alone: that of the data set's authors where they say which, else that
    of `row.answers`, else the assistant's. Empty answers are left out.

    Args:
        min_count: questions that an answer must be the answer to.
        size: at most so many answers; None: all that are frequent enough.

    Raises:
        UserError: no answer is frequent enough.
    """
    counts = Counter(answer for row in rows if (answer := label(common_answer(row))))
    kept = sorted((answer for answer, count in counts.items() if count >= min_count), key=lambda a: (-counts[a], a))
    if not kept:
        most = f"the most frequent of {len(counts)} stands {max(counts.values())} times" if counts else "there is none"
        raise UserError(f"no answer stands {min_count} times in the training data: {most}", fix="lower min_count")
    return tuple(kept[:size])


def common_answer(row: Row) -> str:
    """What most people answered to `row`; "" where nobody did."""
    if told := row.fields.get("multiple_choice_answer"):
        return told
    return most_common(row.answers) if row.answers else row.answer


def soft_target(answers: Sequence[str], rule: Rule) -> dict[str, float]:
    """What each answer is worth, in (0, 1], by how many people gave it; cleaned answers that are equal are one.

    "leave-one-out" is the accuracy by the official rule, the mean of min(k/3, 1) over all choices to leave one person
    out: of ten people, 1, 2, 3 and 4 or more make 0.3, 0.6, 0.9 and 1. "thirds" is min(n/3, 1). Answers that are worth
    0 are left out. Where one person answered, that answer is worth 1 by either rule.
    """
    counts = Counter(map(label, answers))
    people = len(answers)
    if people == 1:
        return dict.fromkeys(counts, 1.0)
    # Whole numbers until the division, so that 3 of 10 are 0.9 and not 0.8999.
    if rule == "thirds":
        worth = {answer: min(n, ENOUGH) / ENOUGH for answer, n in counts.items()}
    else:
        worth = {
            answer: (n * min(n - 1, ENOUGH) + (people - n) * min(n, ENOUGH)) / (people * ENOUGH)
            for answer, n in counts.items()
        }
    return {answer: value for answer, value in worth.items() if value and answer}


def save(path: Path, answers: Sequence[str]) -> None:
    """Write a vocabulary as a JSON list, whose order is that of a head's outputs."""
    write_text(path, json.dumps(list(answers), ensure_ascii=False, indent=0) + "\n")


def load(path: Path) -> tuple[str, ...]:
    """The vocabulary that `save` (or anybody: a JSON list of texts) wrote. Raises UserError where it is none."""
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"is no vocabulary: {error}", where=str(path), fix="a JSON list of answers") from error
    if not isinstance(found, list) or not all(isinstance(answer, str) for answer in found):
        raise UserError("is no vocabulary", where=str(path), fix="a JSON list of answers")
    if len(set(found)) < len(found):
        twice = next(answer for answer, count in Counter(found).items() if count > 1)
        raise UserError(f"holds the answer '{twice}' twice", where=str(path))
    return tuple(found)
