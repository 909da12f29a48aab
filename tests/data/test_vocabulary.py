"""The answer vocabulary and its soft targets, against the rule that they stand for and on real answers."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pytest

from sightline.data.dataset import read_rows
from sightline.data.row import Row, Turn, Where
from sightline.data.vocabulary import common_answer, label, load, save, soft_target, vocabulary
from sightline.errors import UserError
from sightline.evaluate.vqa import RULES
from sightline.recipe.schema import DataSpec


def _row(*answers: str, said: str = "", **fields: str) -> Row:
    turns = (Turn("user", ("what?",)), Turn("assistant", (said or answers[0],)))
    return Row(Where("made", 1), turns, fields=fields, answers=answers)


def test_targets_of_ten_people() -> None:
    for n, worth in ((1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (9, 1.0), (10, 1.0)):
        answers = ["cat"] * n + [f"other{i}" for i in range(10 - n)]
        assert soft_target(answers, "leave-one-out")["cat"] == worth, "exactly: these are the published figures"
    for n, worth in ((1, 1 / 3), (2, 2 / 3), (3, 1.0), (10, 1.0)):
        assert soft_target(["cat"] * n + ["dog"] * (10 - n), "thirds")["cat"] == worth


def test_one_person_is_enough_where_only_one_was_asked() -> None:
    assert soft_target(["Bedroom."], "leave-one-out") == soft_target(["Bedroom."], "thirds") == {"bedroom": 1.0}


def test_answers_are_cleaned_before_they_are_counted() -> None:
    found = soft_target(["Two", "2", "two.", "the cat", "a cat", "cat"] + ["dog"] * 4, "leave-one-out")
    assert found == {"2": 0.9, "cat": 0.9, "dog": 1.0}
    assert label("1,000") == "1000" and label("1, 2") == "1 2"
    assert soft_target(["A"] * 3 + ["the letter"] * 7, "thirds") == {"a": 1.0, "letter": 1.0}, "a letter, no article"
    assert soft_target([" "] * 3 + ["cat"] * 7, "thirds") == {"cat": 1.0}


def test_the_leave_one_out_target_is_the_official_accuracy() -> None:
    for counts in itertools.chain(*(itertools.product(range(1, 9), repeat=n) for n in (2, 3, 4))):
        if sum(counts) == 10:
            answers = [f"answer{i}" for i, count in enumerate(counts) for _ in range(count)]
            for answer, worth in soft_target(answers, "leave-one-out").items():
                assert worth == pytest.approx(RULES["official"](answer, answers), abs=1e-12)


def test_a_question_counts_once_for_its_most_common_answer() -> None:
    rows = [_row("net", "net", "mesh"), _row("Net", "mesh", "mesh"), _row("a", "b", multiple_choice_answer="mesh")]
    assert vocabulary(rows, 1) == ("mesh", "net")
    assert vocabulary(rows, 2) == ("mesh",)
    assert vocabulary(rows, 1, size=1) == ("mesh",)
    assert common_answer(Row(Where("made", 1), (Turn("assistant", ("said",)),))) == "said", "where nobody was counted"
    with pytest.raises(UserError, match=r"no answer stands 9 times.*the most frequent of 2 stands 2 times"):
        vocabulary(rows)
    with pytest.raises(UserError, match="there is none"):
        vocabulary([])


def test_a_sampled_target_changes_no_vocabulary() -> None:
    rows = [_row("net", "net", "mesh", said="mesh", multiple_choice_answer="net")] * 9
    assert vocabulary(rows) == ("net",)


def test_a_vocabulary_is_saved_in_its_order(tmp_path: Path) -> None:
    answers = ("yes", "no", "naïve café", "2")
    save(tmp_path / "answers.json", answers)
    assert load(tmp_path / "answers.json") == answers
    for text, message in (("{", "is no vocabulary"), ('["a", 1]', "is no vocabulary"), ('["a", "a"]', "'a' twice")):
        (tmp_path / "broken.json").write_text(text)
        with pytest.raises(UserError, match=message):
            load(tmp_path / "broken.json")


@pytest.mark.slow
def test_real_answers(shared: Path) -> None:
    """57,038 of VQAv2's questions: the counts that docs/vqa.md states."""
    folder = shared / "vqav2_text"
    rows: list[Row] = []
    for part in ("train", "valid"):
        files = {
            key: str(folder / f"vqa_{stem}_{part}.gzip")
            for key, stem in (("path", "questions"), ("annotations", "annotatons"))
        }
        rows += read_rows(DataSpec(reader="vqa", file_name="none", **files), part).rows  # type: ignore[arg-type]
    answers = vocabulary(rows)
    assert (len(rows), len(answers), answers[:5]) == (57_038, 411, ("yes", "no", "1", "2", "3"))
    counts = Counter(label(row.fields["multiple_choice_answer"]) for row in rows)
    assert set(answers) == {answer for answer, count in counts.items() if count >= 9}
    known = set(answers)
    covered = sum(label(row.answer) in known for row in rows) / len(rows)
    best = sum(
        max((w for a, w in soft_target(row.answers, "leave-one-out").items() if a in known), default=0.0)
        for row in rows
    )
    assert (round(covered, 3), round(best / len(rows), 3)) == (0.851, 0.869)
