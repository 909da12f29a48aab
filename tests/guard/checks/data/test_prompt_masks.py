"""L2 on bare evidence: masks of prompts that count padding, or count an image's many placeholders as one token."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from sightline.guard.check import Finding
from sightline.guard.checks.data.unmasked_labels import find
from sightline.guard.evidence import BatchSeen, PromptMasksSeen
from sightline.guard.evidence.prompt_masks import MaskedRow, MeasuredRow, prompt_end

USER, SAYS, END, IMAGE = 3, 4, 1, 2
BATCH = BatchSeen(phase="train", step=1, input_ids=torch.full((1, 4), 9))
Begin = Callable[[int, int, int], int]  # of a prompt's size, the row's and its padding: where labels begin


def said(rows: list[MaskedRow], measured: tuple[MeasuredRow, ...] = ()) -> str | None:
    found = find(BATCH, masks=PromptMasksSeen(9, tuple(rows), measured))
    return found.message if isinstance(found, Finding) and found.severity == "error" else None


def batches(begin: Begin, *, left: bool, template: bool = True, texts: int = 400) -> list[MaskedRow]:
    """Rows of 20 batches of 8; "user : words says words </s>", or without the words that are the same everywhere."""
    draw, rows = random.Random(0), list[MaskedRow]()
    for _ in range(20):
        batch = []
        for _ in range(8):
            one = random.Random(draw.randrange(texts))
            question, answer = ([one.randrange(10, 60) for _ in range(one.randint(2, 9))] for _ in range(2))
            prompt = [USER, 5, *question, SAYS, 5] if template else question
            batch.append((prompt, [*prompt, *answer, END]))
        width = max(len(text) for _, text in batch)
        for prompt, text in batch:
            pads = width - len(text)
            start = begin(len(prompt), len(text), pads)
            if start < len(text):  # else nothing of it is taught
                rows.append(MaskedRow(tuple(text), max(0, start), pads if left else -pads))
    return rows


DRAW = random.Random(2)
RIGHT: Begin = lambda prompt, row, pads: prompt  # noqa: E731
FROM_PADDED_START: Begin = lambda prompt, row, pads: prompt - pads  # noqa: E731
TO_PADDED_END: Begin = lambda prompt, row, pads: prompt + pads  # noqa: E731
WHOLE: Begin = lambda prompt, row, pads: 1  # noqa: E731
LAST_WORD: Begin = lambda prompt, row, pads: row - 2  # noqa: E731
AT_RANDOM: Begin = lambda prompt, row, pads: DRAW.randrange(1, row)  # noqa: E731
ONE_LATE: Begin = lambda prompt, row, pads: prompt + 1  # noqa: E731


@pytest.mark.parametrize("template", [True, False], ids=["a template", "texts that come again"])
@pytest.mark.parametrize(("begin", "left"), [(FROM_PADDED_START, True), (TO_PADDED_END, False)])
def test_masks_that_count_padding(begin: Begin, left: bool, template: bool) -> None:
    message = said(batches(begin, left=left, template=template, texts=400 if template else 40))
    assert message is not None and "as if padding were a part of them" in message
    assert ("teach the prompt" if left else "leave out") in message


@pytest.mark.parametrize("texts", [400, 40])
@pytest.mark.parametrize("template", [True, False])
@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize("begin", [RIGHT, WHOLE, LAST_WORD, AT_RANDOM, ONE_LATE])
def test_masks_that_follow_the_text(begin: Begin, left: bool, template: bool, texts: int) -> None:
    assert said(batches(begin, left=left, template=template, texts=texts)) is None


def test_few_rows_may_agree_by_chance() -> None:
    assert said(batches(FROM_PADDED_START, left=True)[:16]) is None


def test_rows_of_one_number_of_padding_tell_no_offset() -> None:
    rows = batches(FROM_PADDED_START, left=True)
    assert said([row for row in rows if row.pads in (0, 2)]) is None


MANY = 6
Taught = Callable[[int, int, int], bool]  # of a place, its token and the prompt's end: is it taught?


def pictured(taught: Taught, count: int = 12, ahead: tuple[int, ...] = (9, USER)) -> tuple[MeasuredRow, ...]:
    """Rows of one image or two in the words of the user, and their prompts with one token for each image."""
    draw, rows = random.Random(1), list[MeasuredRow]()
    for _ in range(count):
        images, question = draw.randint(1, 2), [draw.randrange(10, 60) for _ in range(draw.randint(2, 9))]
        prompt = (*ahead, *[IMAGE] * images, *question, SAYS)
        shown = (*ahead, *[IMAGE] * images * MANY, *question, SAYS)
        text = (*shown, *(draw.randrange(10, 60) for _ in range(3)), END)
        told = tuple(taught(place, token, len(shown)) for place, token in enumerate(text))
        rows.append(MeasuredRow(text, told, prompt))
    return tuple(rows)


def test_a_mask_that_counts_an_image_as_one_token() -> None:
    few = pictured(lambda place, token, end: place >= end)
    rows = tuple(MeasuredRow(r.text, _cut(r, images=False), r.prompt) for r in few)
    message = said([], rows)
    assert message is not None and "12 of 12 rows teach their last words" in message
    assert said([], tuple(MeasuredRow(r.text, _cut(r, images=True), r.prompt) for r in few)) is not None
    assert said([], rows[:7]) is None  # too few
    assert said([], rows + few[:4]) is None  # others are right


def test_a_mask_that_may_end_in_the_images_that_a_row_begins_with() -> None:
    few = pictured(lambda place, token, end: place >= end, count=40, ahead=())
    rows = tuple(MeasuredRow(r.text, _cut(r, images=True), r.prompt) for r in few)
    within = sum(set(r.text[: len(r.prompt)]) == {IMAGE} for r in rows)
    assert 0 < within < len(rows) and said([], rows) is not None
    assert said([], tuple(MeasuredRow(r.text, tuple(t != IMAGE for t in r.text), r.prompt) for r in few)) is None


def _cut(row: MeasuredRow, *, images: bool) -> tuple[bool, ...]:
    """Masked for as many tokens as the prompt has; `images`: placeholders behind that are taught."""
    return tuple(place >= len(row.prompt) and (images or token != IMAGE) for place, token in enumerate(row.text))


@pytest.mark.parametrize(
    ("taught", "ahead"),
    [
        (lambda place, token, end: place >= end, (9, USER)),
        (lambda place, token, end: token != IMAGE, (9, USER)),
        (lambda place, token, end: token != IMAGE, (9,)),
        (lambda place, token, end: token not in (IMAGE, 9), (9,)),
        (lambda place, token, end: token not in (IMAGE, USER, SAYS), (9, USER)),
        (lambda place, token, end: place >= end + 2, (9, USER)),
    ],
    ids=["answers", "whole texts", "images first", "images first, and no beginning", "no marks", "last words"],
)
def test_other_masks_beside_such_a_prompt(taught: Taught, ahead: tuple[int, ...]) -> None:
    assert said([], pictured(taught, ahead=ahead)) is None


def test_where_a_prompt_ends() -> None:
    text = (9, 3, *[2] * 6, 7, *[2] * 6, 8, 4, 5, 1)
    assert prompt_end(text, (9, 3, 2, 7, 2, 8, 4)) == (17, 2)
    for other in (
        (9, 3, *[2] * 6, 7, *[2] * 6, 8),  # as it stands there
        (9, 3, 2, 7, 2, 8, 5),  # another text
        (9, 3, 2, 7, 2, 8, 4, 5, 1),  # the whole row
    ):
        assert prompt_end(text, other) is None
    assert prompt_end(text, (9, 3, 2, 7, 2)) == (15, 2)  # no word behind the last image
    assert prompt_end((9, 3, 3, 7, 8, 1), (9, 3, 7)) is None  # a word that is said twice
