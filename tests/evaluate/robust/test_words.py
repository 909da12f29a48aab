"""Questions said otherwise, and questions and pictures that lie."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sightline.data.images import load_image
from sightline.data.row import Picture, Turn
from sightline.evaluate.robust.contradiction import contradicted, falsehoods, with_caption
from sightline.evaluate.robust.words import CHANGES, paraphrase, said_otherwise, typos, with_question
from tests.evaluate import tiny


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("what color is the shape?", "which color is the shape?"),
        ("What colour is the dog ?", "Which color is the dog ?"),
        ("is there a red circle?", "can you see a red circle?"),
        ("does the image contain a triangle?", "is there a triangle in the picture?"),
        ("how many cats are there?", "what is the number of cats?"),
        ("what shape is in the image", "which shape is in the image"),
    ],
)
def test_known_forms_are_rewritten(asked, said):
    assert paraphrase(asked, random.Random(0)) == said


@pytest.mark.parametrize(
    "asked", ["is there not a circle?", "does the image not contain a square?", "why?", "who is it?"]
)
def test_what_might_change_its_meaning_is_only_framed(asked):
    said = paraphrase(asked, random.Random(0))
    assert asked in said and said != asked


def test_typos_are_few_and_spare_short_words():
    asked = "is there no large brown rectangle anywhere here ?"
    seen = {typos(asked, random.Random(seed)) for seed in range(40)}
    for said in seen:
        words = list(zip(asked.split(), said.split(), strict=True))
        changed = [(one, other) for one, other in words if one != other]
        assert 1 <= len(changed) <= 1 + 6 // 4 and all(len(one) >= 4 for one, _ in changed)
    assert len(seen) > 10
    assert typos("is it red ?", random.Random(0)) == "is it red ?"


def test_only_the_last_question_changes_and_pictures_stay(tmp_path):
    ref = tiny.pictures(tmp_path)[0]
    row = tiny.row(1, "what color is the whole picture ?", "red", ref)
    before = replace(row, turns=(Turn("user", ("first ?",)), Turn("assistant", ("yes",)), *row.turns))
    for name in CHANGES:
        after = said_otherwise(before, name, 0)
        assert after.turns[:2] == before.turns[:2] and after.turns[3] == before.turns[3]
        assert after.question != before.question and after.images == before.images
        assert sum(isinstance(part, Picture) for part in after.turns[2].parts) == 1
        assert after == said_otherwise(before, name, 0)
    assert with_question(replace(row, turns=(Turn("user", (Picture(),)),)), str.upper).turns == (
        Turn("user", (Picture(),)),
    )


def test_what_is_asserted_is_false_and_fits_the_question(tmp_path):
    rows = tiny.questions(tiny.pictures(tmp_path))
    for row, false in zip(rows, falsehoods(rows, 0), strict=True):
        assert false is not None and false != row.answer
        assert (false in ("yes", "no")) == (row.answer in ("yes", "no"))
    assert falsehoods(rows, 0) == falsehoods(rows, 0) != falsehoods(rows, 5)
    assert falsehoods(rows[:1], 0) == [None]
    told = contradicted(rows, "asserted", 0)
    assert len(told) == len(rows)
    assert told[0].false in told[0].row.question and told[0].false not in told[0].control.question


def test_people_s_other_answers_are_no_falsehoods():
    rows = [tiny.row(n, "what is it ?", answer) for n, answer in enumerate(("cat", "dog", "bird"))]
    rows[0] = replace(rows[0], answers=("cat", "dog"))
    assert {falsehoods(rows, seed)[0] for seed in range(9)} == {"bird"}


def test_a_caption_is_printed_and_its_control_is_the_strip_alone(tmp_path):
    big = Image.new("RGB", (120, 90), "green")
    lie, bare = np.asarray(with_caption(big, "a red bus")), np.asarray(with_caption(big, ""))
    top = 90 - round(0.18 * 90)
    assert (lie[:top] == np.asarray(big)[:top]).all() and (bare[top:] == 255).all()
    assert (lie[top:] < 128).any() and not (lie[top:] == bare[top:]).all()
    assert (np.asarray(with_caption(big, "a caption much longer than any that could fit into it " * 2)) >= 0).all()
    rows = tiny.questions(tiny.pictures(tmp_path))
    for row, each in zip(rows, contradicted(rows, "printed", 0), strict=True):
        keys = {each.row.images[0].key, each.control.images[0].key, row.images[0].key}
        assert len(keys) == 3 and each.row.question == each.control.question
        assert load_image(each.row.images[0], each.row.where).size == (16, 16)
