"""L8 on training rows whose prompts are masked: answers without words, and rows without a template."""

from __future__ import annotations

import pytest

from sightline.guard.check import Finding
from sightline.guard.checks.data.dataset_schema_mismatch import find
from sightline.guard.evidence import BatchSeen, PromptMasksSeen, PromptsSeen, Setup, TokenizerSetup
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


def unanswered(*, eos: int = END, of: int = 64, said: int = 9, known: bool = True) -> list[MaskedRow] | None:
    """The rows of which none has an answer, behind a template of two tokens, if that is told."""
    seen = [MaskedRow((7, 10 + n % 9, 30 + n % 7, said if n % 2 else 9, 8, END), 5, 0) for n in range(of)]
    setup = Setup({}, TokenizerSetup(70, pad_id=0, eos_id=eos)) if known else Setup({}, ends=(eos,))
    found = find(masks=PromptMasksSeen(0, tuple(seen)), setup=setup)
    return seen if isinstance(found, Finding) and f"empty in {of} of {of} training rows" in found.message else None


def test_no_row_has_an_answer() -> None:
    assert unanswered() and unanswered(known=False)  # by the model's config alone
    assert not unanswered(eos=3) and not unanswered(eos=3, known=False)  # a class, which happens to be one
    assert not unanswered(of=32)
    assert not unanswered(said=4)  # what the model said is masked: it learns to stop


WORDS = {7: "user", 8: "<bot>", 50: "it"}


def judged(said: int, *, ends: int = 8, count: int = 8, roles: tuple[str, ...] = ("<bot>", "<user>")) -> bool:
    """Whether rows whose prompts end in `said` are told, where the prompts that are written on end in `ends`."""
    texts = [MaskedRow((7, 10 + n % 9, said, 50 + n % 5, END), 3, 0) for n in range(64)]
    batch = BatchSeen("evaluation", 9, decode=lambda ids: " ".join(WORDS.get(i, "?") for i in ids))
    found = find(None, PromptMasksSeen(9, tuple(texts), roles=roles), PromptsSeen(9, ((ends, count),)), batch)
    return isinstance(found, Finding) and "no chat template was applied" in found.message


def test_prompts_end_in_what_no_training_row_has() -> None:
    assert judged(9)
    assert not judged(8)  # rows were written by the template as well
    assert not judged(9, count=3)
    assert not judged(9, roles=())  # nobody applied a template
    assert not judged(9, ends=7)  # prompts end in a word of the rows
    assert not judged(9, ends=50, roles=("<bot>",))
