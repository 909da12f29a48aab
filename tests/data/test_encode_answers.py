"""Prompts with marks of a vocabulary's answers: what they hold, how they are collated, and how they are kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sightline.data.encode import RowError
from sightline.data.encode_answers import AnswerEncoder
from sightline.data.encode_composed import ComposedEncoder
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.errors import UserError
from tests.train.tiny import drawn, fresh


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return drawn(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def encoder(rows: list[Row]) -> AnswerEncoder:
    prompts = fresh(rows).encoder
    assert isinstance(prompts, ComposedEncoder)
    return AnswerEncoder(prompts, ("red", "green", "blue"), "leave-one-out")


def test_a_row_is_its_prompt_and_the_marks_of_its_answers(encoder: AnswerEncoder, rows: list[Row]) -> None:
    asked = replace(rows[0], answers=("red",) * 2 + ("Blue.",) * 7 + ("teal",))
    example = encoder.encode(asked)
    assert example.input_ids == encoder.prompts.encode_prompt(rows[0]).input_ids
    assert set(example.labels) == {-100}
    assert example.marks == ((0, 0.6), (2, 1.0))


def test_where_one_person_answered_that_answer_is_the_mark(encoder: AnswerEncoder, rows: list[Row]) -> None:
    assert encoder.encode(rows[0]).marks == ((0, 1.0),)


def test_rows_outside_the_vocabulary_are_kept_and_counted(encoder: AnswerEncoder, rows: list[Row]) -> None:
    assert encoder.encode(rows[1]).marks == ()  # "it is red all over"
    assert encoder.outside(rows) == sum(row.answer not in encoder.answers for row in rows) == 9


def test_a_row_that_nobody_answered_teaches_nothing(encoder: AnswerEncoder, rows: list[Row]) -> None:
    asked = replace(rows[0], turns=rows[0].turns[:1])
    with pytest.raises(RowError, match=r"row 1: (no assistant turn|nobody answered)"):
        encoder.encode(asked)
    assert encoder.encode_prompt(asked).input_ids == encoder.encode(rows[0]).input_ids
    assert encoder.encode(replace(asked, answers=("red",))).marks == ((0, 1.0),)


def test_a_batch_knows_where_its_prompts_end_and_what_they_are_worth(encoder: AnswerEncoder, rows: list[Row]) -> None:
    examples = [encoder.encode(row) for row in rows[:5]]
    single = encoder.collate(pack(examples, "none", 64))
    packed = encoder.collate(pack(examples, "image", 64))
    assert len(single.input_ids) == 5 and len(packed.input_ids) == 3
    for batch in (single, packed):
        assert batch.labels is None and batch.tokens == 0
        assert batch.ends is not None and batch.answers is not None
        last = batch.input_ids.flatten()[batch.ends].tolist()
        assert last == [example.input_ids[-1] for example in examples]
        assert batch.answers.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert single.supervised()[0].numel() == 0
    moved = single.to(torch.device("meta"))
    assert moved.ends is not None and moved.ends.device.type == "meta"


def test_padding_on_the_left_is_refused(encoder: AnswerEncoder, rows: list[Row]) -> None:
    with pytest.raises(UserError, match="padded on the right"):
        encoder.collate(pack([encoder.encode(rows[0])], "none", 64), pad_left=True)


def test_what_is_saved_comes_back(encoder: AnswerEncoder, tmp_path: Path) -> None:
    encoder.save(tmp_path)
    again = AnswerEncoder.load(tmp_path, encoder.prompts)
    assert (again.answers, again.targets) == (encoder.answers, encoder.targets)
    again.same_as_in(tmp_path)
    with pytest.raises(UserError, match="counted now has 2 answers, the run's own 3; they differ from 'blue' on"):
        AnswerEncoder(encoder.prompts, ("red", "blue"), "thirds").same_as_in(tmp_path)
