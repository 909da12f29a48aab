from __future__ import annotations

from itertools import count

import pytest

from sightline.data.row import ImageRef, Picture, Row, Turn, Where
from sightline.evaluate.baselines import text_ceiling, text_only, with_other_images

NUMBERS = count(1)


def row(question: str, answer: str, *images: str, number: int | None = None) -> Row:
    """A row at a place of its own, where no `number` is given."""
    parts = (*(Picture() for _ in images), question)
    turns = (Turn("user", parts), Turn("assistant", (answer,)))
    return Row(
        Where("test.json", next(NUMBERS) if number is None else number), turns, tuple(ImageRef(key) for key in images)
    )


def test_text_only_gives_the_most_frequent_answer_of_each_question() -> None:
    train = [row("Red?", "yes"), row("red", "No"), row("Red?", "no."), row("Shape?", "circle"), row("Blue?", "yes")]
    counted = text_only(train)
    assert counted is not None
    assert counted.answer("RED") == "no"
    assert counted.answer("shape?") == "circle"
    assert counted.answer("never asked") == "yes"  # 2 yes, 2 no, 1 circle: the first of a tie


def test_text_only_counts_every_turn() -> None:
    talk = (("user", "Red?"), ("assistant", "yes"), ("user", "Sure?"), ("assistant", "no"))
    counted = text_only([Row(Where("a", 1), tuple(Turn(role, (text,)) for role, text in talk))])  # type: ignore[arg-type]
    assert counted is not None
    assert (counted.answer("Red?"), counted.answer("Sure?")) == ("yes", "no")


def test_a_row_that_two_data_sets_select_counts_once() -> None:
    train = [row("q", "a", number=1), row("q", "b", number=2), row("q", "b", number=3)]
    counted = text_only([*train, train[0], train[0]])
    assert counted is not None and counted.answer("q") == counted.overall == "b"


def test_text_only_of_nothing_is_nothing() -> None:
    assert text_only([]) is None


def test_the_ceiling_bounds_every_text_only_answer() -> None:
    test = [row("q", "a"), row("q", "a"), row("q", "b"), row("r", "c")]
    assert text_ceiling(test) == 3 / 4
    for train in ([row("q", "b")], [row("q", "a"), row("r", "c")], [row("r", "a")]):
        counted = text_only(train)
        assert counted is not None
        assert sum(counted.answer(one.question) == one.answer for one in test) / len(test) <= text_ceiling(test)


@pytest.mark.parametrize("seed", range(5))
def test_other_images_are_a_derangement_that_uses_each_image_once(seed: int) -> None:
    rows = [row(f"q{i}", "a", f"image{i % 7}") for i in range(20)]
    exchanged = with_other_images(rows, seed)
    assert exchanged is not None
    new = {old.images[0].key: other.images[0].key for old, other in zip(rows, exchanged, strict=True)}
    assert all(old != other for old, other in new.items())
    assert sorted(new.values()) == sorted(new)
    assert [one.turns for one in exchanged] == [one.turns for one in rows]


def test_other_images_are_the_same_for_the_same_seed_only() -> None:
    rows = [row("q", "a", f"image{i}") for i in range(30)]
    assert with_other_images(rows, 1) == with_other_images(rows, 1)
    assert with_other_images(rows, 1) != with_other_images(rows, 2)


@pytest.mark.parametrize("seed", range(5))
def test_rows_of_several_images_keep_none_of_them(seed: int) -> None:
    rows = [row("same?", "yes", f"left{i % 3}", f"right{i}") for i in range(6)] + [row("text alone?", "yes")]
    exchanged = with_other_images(rows, seed)
    assert exchanged is not None
    for old, other in zip(rows, exchanged, strict=True):
        assert len(other.images) == len(old.images)
        assert not {image.key for image in old.images} & {image.key for image in other.images}


@pytest.mark.parametrize("rows", [[], [row("q", "a")], [row("q", "a", "one")] * 3, [row("q", "a", "one", "two")]])
def test_too_few_images_to_exchange(rows: list[Row]) -> None:
    assert with_other_images(rows, 0) is None
