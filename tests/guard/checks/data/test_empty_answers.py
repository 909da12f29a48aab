"""L8 on training rows whose prompts are masked: answers of which only the end is taught."""

from __future__ import annotations

import pytest

from sightline.guard.check import Finding
from sightline.guard.checks.data.dataset_schema_mismatch import find
from sightline.guard.evidence import PromptMasksSeen
from sightline.guard.evidence.prompt_masks import MaskedRow

END = 2


def row(number: int, *answer: int) -> MaskedRow:
    prompt = (7, 10 + number % 9, 30 + number % 7, 8)
    return MaskedRow(prompt + answer, len(prompt), 0)


def rows(empty: int, of: int) -> list[MaskedRow]:
    return [row(n, END) if n < empty else row(n, 50 + n % 5, 60, END) for n in range(of)]


@pytest.mark.parametrize(("empty", "of"), [(32, 64), (26, 64), (24, 32)])
def test_many_rows_teach_their_end_alone(empty: int, of: int) -> None:
    found = find(masks=PromptMasksSeen(0, tuple(rows(empty, of))))
    assert isinstance(found, Finding) and found.severity == "warning" and f"{empty} of {of} training" in found.message


@pytest.mark.parametrize(
    "seen",
    [
        rows(20, 64),  # a third of the questions has no answer
        rows(10, 20),  # few rows
        rows(64, 64),  # nothing but one token: a class, which happens to be one
        [row(n, 50 + n % 2) for n in range(64)],  # classes
        [row(n, 50 + n % 2, END) for n in range(64)],
        [row(n, END) if n % 2 else row(n, 50, 60 + n % 4) for n in range(64)],  # what ends the others is no end
        [row(0, END) if n % 2 else row(n, 50, 60, END) for n in range(64)],  # one text, again and again
    ],
)
def test_answers_as_they_may_be(seen: list[MaskedRow]) -> None:
    assert not isinstance(find(masks=PromptMasksSeen(0, tuple(seen))), Finding)
