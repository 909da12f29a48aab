"""M1 on bare evidence: shared by leakage, by chance, or as a training score."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sightline
from sightline.attach.onlookers.repeats import Repeats, counted
from sightline.attach.onlookers.shared_pictures import SharedPictures
from sightline.guard.catalogue import load, page
from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.evaluation.train_test_leakage import find
from sightline.guard.evidence import NearRowsSeen, RepeatsSeen, SharedRowsSeen
from sightline.guard.evidence.rows import ViewsSeen

LEAK = SharedRowsSeen(9, trained=400, evaluated=100, shared=40, mixed=5, complete=True, pairs=100_000, twins=0)


def test_a_part_or_all_of_it() -> None:
    assert isinstance(find(LEAK), Finding)
    assert isinstance(find(replace(LEAK, shared=100, mixed=0)), Finding)
    assert isinstance(find(replace(LEAK, shared=5)), Finding)


@pytest.mark.parametrize(
    "change",
    [
        {"shared": 0},
        {"shared": 2},
        {"shared": 9, "evaluated": 1000},
        {"shared": 100, "mixed": 0, "trained": 100},
        {"shared": 100, "mixed": 0, "complete": False},
        {"shared": 50, "mixed": 0},
    ],
    ids=["none", "two", "below a hundredth", "the training set", "perhaps the training set", "a bank and a test"],
)
def test_silent(change: dict[str, Any]) -> None:
    assert find(replace(LEAK, **change)) is None


@pytest.mark.parametrize("change", [{"evaluated": 0}, {"trained": 0}, {"twins": 500}, {"pairs": 1000}])
def test_what_cannot_be_told(change: dict[str, Any]) -> None:
    assert isinstance(find(replace(LEAK, **change)), CannotTell)


def test_one_pass_over_all_data_behind_the_last_step() -> None:
    assert find(replace(LEAK, shared=400, evaluated=500, extracted=True)) is None


@pytest.mark.parametrize(("often", "codes"), [(False, []), (True, ["M1"])])
def test_features_of_all_data(often: bool, codes: list[str]) -> None:
    torch.manual_seed(0)
    model, everything = nn.Linear(8, 2), torch.randn(80, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, on_finding=None, checks=load((page("M1"),)), budget=1.0) as guard:
        for epoch in range(3):
            for rows in everything[:64].split(16):
                optimizer.zero_grad()
                model(rows).square().mean().backward()
                optimizer.step()
            if often or epoch == 2:
                with torch.no_grad():
                    [model(rows) for rows in everything.split(24)]
    assert [finding.code for finding in guard.findings] == codes


def test_one_side_of_pairs() -> None:
    assert isinstance(find(replace(LEAK, one_side=True)), CannotTell)


@pytest.mark.parametrize(("twins", "told"), [(300, False), (20, True)], ids=["a set of 250 rows", "one of thousands"])
def test_rows_that_come_again_in_other_batches_alone(twins: int, told: bool) -> None:
    """No batch of draws from a small set has a row twice; rows that were stored come again whatever they are."""
    seen = replace(LEAK, drawn=(75_000, twins), parts=200, keys=1)
    assert isinstance(find(seen), Finding if told else CannotTell)
    assert isinstance(find(replace(seen, keys=4)), Finding)


def test_a_second_pass_is_not_counted_as_repetitions() -> None:
    rows = [str(row).encode() for row in range(40)]
    seen = Repeats()
    for place in (*range(0, 40, 4), *range(0, 40, 4)):
        seen.train(rows[place : place + 4], whole=True)
    assert (seen.trained.pairs, seen.trained.twins) == (780, 0)
    assert seen.trained.rows.total() == 40


NEAR = replace(
    LEAK,
    shared=0,
    mixed=0,
    again=0.6,
    near=NearRowsSeen("images", trained=400, evaluated=100, near=20, mixed=20, pairs=80_000, twins=0),
)


def near(**changes: Any) -> SharedRowsSeen:
    assert NEAR.near is not None
    return replace(NEAR, near=replace(NEAR.near, **changes))


def test_near_rows() -> None:
    assert isinstance(find(NEAR), Finding)
    assert isinstance(find(near(near=8)), Finding)
    assert isinstance(find(near(near=100, mixed=0)), Finding)  # all of a small part of the rows trained on


@pytest.mark.parametrize(
    "seen",
    [
        near(near=7),
        near(twins=60),
        replace(NEAR, again=0.1),
        replace(near(near=100, mixed=0), evaluated=400),
        replace(near(mixed=5), complete=False),
        replace(NEAR, near=None),
    ],
    ids=["few", "by chance", "augmented", "a training score", "a score beside a test", "nothing to compare"],
)
def test_near_rows_that_prove_nothing(seen: SharedRowsSeen) -> None:
    assert find(seen) is None


def repeats(train: np.ndarray, test: np.ndarray) -> RepeatsSeen:
    """Counted as the onlooker counts them."""
    seen = Repeats()
    for place in range(0, len(train), 32):
        seen.train([str(row).encode() for row in train[place : place + 32]], whole=True)
    seen.evaluate(1, [str(row).encode() for row in test])
    found = seen.seen()
    assert found is not None
    return found


def shown(train: np.ndarray, test: np.ndarray, **changes: Any) -> SharedRowsSeen:
    """All that training and one evaluation show, whose own repetitions explain what they share."""
    evaluated, shared = len(set(test)), len(set(test) & set(train))
    seen = replace(LEAK, trained=len(set(train)), evaluated=evaluated, shared=shared, twins=5000, parts=300, keys=4)
    return replace(seen, repeats=repeats(train, test), **changes)


def split(rows: np.ndarray, draw: np.random.Generator, share: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    rows, at = draw.permutation(rows), int(share * len(rows))
    return rows[at:], rows[:at]


def copies(times: int, *, seldom: int, every: int = 1200) -> np.ndarray:
    """Of `every` rows, `seldom` are there so many times."""
    return np.concatenate([np.arange(every - seldom) + seldom, np.arange(seldom).repeat(times)])


@pytest.mark.parametrize(("times", "seldom"), [(2, 300), (4, 200), (20, 50)])
def test_copies_of_some_rows(times: int, seldom: int) -> None:
    draw = np.random.default_rng(times)
    train, test = split(copies(times, seldom=seldom), draw)
    assert isinstance(find(shown(train, test)), Finding)
    assert isinstance(find(shown(train[: len(train) * 4 // 5], test)), Finding)  # the rest was not seen
    assert isinstance(find(shown(train, test, mixed=0, keys=0)), Finding)
    assert isinstance(find(replace(shown(train, test), repeats=None)), CannotTell)


def test_every_row_twice() -> None:
    """Of what is judged, one row in nine is new. A training score has none that is, or all that is judged beside it."""
    for seed in range(5):
        draw = np.random.default_rng(seed)
        train, test = split(np.arange(800).repeat(2), draw)
        assert isinstance(find(shown(train, test)), Finding)
        train, test = np.arange(640).repeat(2), 640 + np.arange(160).repeat(2)
        train = draw.permutation(train)
        for judged in (train, train[::3], np.append(train, test), np.append(train, test[:80])):
            assert not isinstance(find(shown(train, judged)), Finding)


@pytest.mark.parametrize("new", [30, 70, 200])
def test_a_score_of_all_rows_where_training_was_levelled(new: int) -> None:
    draw = np.random.default_rng(new)
    train = draw.permutation(np.append(np.arange(240), np.arange(60).repeat(9)))
    judged = np.append(train, 1000 + np.arange(new))
    assert not isinstance(find(shown(train, judged, classes=((600, 540), (600, 60)))), Finding)


def test_some_rows_drawn_again_and_again() -> None:
    draw = np.random.default_rng(0)
    more = np.concatenate([np.arange(1200), draw.integers(0, 200, 1000)])
    seen = shown(*split(more, draw))
    assert isinstance(find(seen), Finding)
    for change in ({"keys": 1}, {"parts": 63}):  # rows of few words, some of which are said again and again
        assert isinstance(find(replace(seen, **change)), CannotTell)


def levelled(sizes: tuple[int, ...], draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows of classes of such sizes, repeated until each has as many as the largest; and the class of each row."""
    classes = np.arange(len(sizes)).repeat(sizes)
    parts = [np.flatnonzero(classes == one) for one in range(len(sizes))]
    return np.concatenate([np.append(part, draw.choice(part, max(sizes) - len(part))) for part in parts]), classes


def counted_by_class(train: np.ndarray, classes: np.ndarray) -> tuple[tuple[int, int], ...]:
    parts = [train[classes[train] == one] for one in np.unique(classes)]
    return tuple((len(part), len(set(part))) for part in parts)


@pytest.mark.parametrize("sizes", [(340, 290, 215, 55), (600, 300), (500, 200, 200)])
def test_classes_made_even_before_the_split(sizes: tuple[int, ...]) -> None:
    draw = np.random.default_rng(1)
    rows, classes = levelled(sizes, draw)
    train, test = split(rows, draw)
    seen = shown(train, test, classes=counted_by_class(train, classes))
    assert isinstance(find(seen), Finding)
    for change in ({"classes": ()}, {"keys": 1}, {"classes": ((700, 400), (400, 150))}, {"classes": ((500, 400),) * 2}):
        assert not isinstance(find(replace(seen, **change)), Finding)


def test_classes_made_even_behind_the_split() -> None:
    """A few rows are there twice on their own, and training's are repeated."""
    draw = np.random.default_rng(2)
    rows, classes = levelled((340, 290, 215, 55), draw)
    place = draw.permutation(np.append(np.arange(900), np.arange(900)[::6]))
    test, kept = place[:210], set(place[210:])
    train = np.append(place[210:], [row for row in rows[900:] if row in kept])
    train = draw.permutation(np.append(train, [row for row in rows if classes[row] and row in kept]))
    assert not isinstance(find(shown(train, test, classes=counted_by_class(train, classes))), Finding)


def drawn_from(pool: str, draw: np.random.Generator) -> np.ndarray:
    """1500 rows of a set as large, a larger or a smaller one; of one whose rows are seldom, all of them or but some."""
    some = draw.random(1500) < 0.4
    made = {
        "as many": lambda: draw.integers(0, 1500, 1500),
        "five times as many": lambda: draw.integers(0, 7500, 1500),
        "few": lambda: draw.integers(0, 300, 1500),
        "a long tail": lambda: np.minimum(draw.zipf(1.3, 1500), 10**7),
        "two kinds": lambda: np.where(some, draw.integers(0, 60, 1500), 100 + draw.integers(0, 5000, 1500)),
    }
    return made[pool]()


@pytest.mark.parametrize("pool", ["as many", "five times as many", "few", "a long tail", "two kinds"])
def test_rows_from_a_set_that_repeats_itself(pool: str) -> None:
    """Nobody copied anything before the split, though behind it somebody did, or trains or evaluates twice over."""
    draw = np.random.default_rng(1)
    for _ in range(5):
        train, test = split(drawn_from(pool, draw), draw)
        more = draw.permutation(np.concatenate([train, train[:150].repeat(5)]))
        for seen in (train, train[:600], more, np.tile(train, 3)):
            assert not isinstance(find(shown(seen, test)), Finding)
        assert not isinstance(find(shown(train, test.repeat(2))), Finding)


@pytest.mark.parametrize("seen", [1.0, 0.6])
@pytest.mark.parametrize("times", [2, 6, 20])
def test_a_training_score_where_rows_were_copied_behind_the_split(times: int, seen: float) -> None:
    draw = np.random.default_rng(times)
    train = draw.permutation(copies(times, seldom=200))
    first = train[: int(seen * len(train))]
    for judged in (
        train,
        train[::4],
        draw.permutation(train)[:300],
        np.concatenate([train[::4], np.arange(200) + 10**6]),
    ):
        assert not isinstance(find(shown(first, judged, mixed=0)), Finding)


def views_of(train: np.ndarray, test: np.ndarray, **changes: Any) -> SharedRowsSeen:
    """Pictures by the one of which they are views."""
    near, groups = int(np.isin(test, train).sum()), counted(Counter(train.tolist()), Counter(test.tolist()))
    assert groups is not None
    seen = ViewsSeen(len(test), near, 0, alike=2000, doubtful=20, groups=groups, classes=5)
    return replace(LEAK, shared=0, again=0.6, views=replace(seen, **changes))


@pytest.mark.parametrize("times", [2, 4, 8])
def test_views_made_before_the_split(times: int) -> None:
    draw = np.random.default_rng(times)
    train, test = split(copies(times, seldom=1600 // times, every=1600 // times), draw)
    assert isinstance(find(views_of(train, test)), Finding)
    if times < 8:
        assert isinstance(find(views_of(train[: len(train) * 2 // 3], test)), Finding)  # a sample
    for change in ({"classes": 400}, {"doubtful": 500}, {"known": 40}):
        assert find(views_of(train, test, **change)) is None
    assert find(replace(views_of(train, test), again=0.1)) is None


@pytest.mark.parametrize("pool", ["as many", "five times as many", "few", "a long tail", "two kinds"])
def test_drawings_that_are_alike(pool: str) -> None:
    draw = np.random.default_rng(2)
    for _ in range(5):
        assert find(views_of(*split(drawn_from(pool, draw), draw))) is None


def test_views_made_behind_the_split() -> None:
    """Training's pictures are views, and what is judged are others, or the pictures that they were made of."""
    draw = np.random.default_rng(3)
    train = draw.permutation(np.arange(400).repeat(4))
    for judged in (400 + np.arange(100).repeat(4), np.arange(400), draw.permutation(400)[:200]):
        assert find(views_of(train, judged)) is None


def captions(train: np.ndarray, test: np.ndarray, **changes: Any) -> SharedRowsSeen:
    """Rows by their pictures, each with a text of its own."""
    seen = SharedPictures()
    for side, rows in ((seen.trained, train), (seen.evaluated, test)):
        names = [f"{side.__name__} {place}".encode() for place in range(len(rows))]
        numbers = torch.from_numpy(rows).double()
        side(names, torch.stack([numbers + place for place in (0.0, 0.1, 0.2, 0.3)], dim=1))
    return replace(LEAK, shared=0, pictures=seen.seen(()), **changes)


@pytest.mark.parametrize("times", [2, 3, 5])
def test_pictures_on_both_sides(times: int) -> None:
    draw = np.random.default_rng(times)
    train, test = split(np.arange(300).repeat(times), draw)
    assert isinstance(find(captions(train, test)), Finding)
    assert isinstance(find(captions(train, np.unique(test))), Finding)  # one text for each picture
    assert isinstance(find(captions(train[: len(train) * 98 // 100], test)), Finding)  # the last batch was dropped


def test_pictures_that_training_has_all_texts_of() -> None:
    draw = np.random.default_rng(4)
    every = np.arange(300).repeat(5)
    few, test = split(draw.integers(0, 300, 1500), draw)
    for train, judged in (
        (every, 300 + np.arange(60).repeat(5)),
        (every, np.arange(300)),  # of each a prompt
        (every, np.arange(60)),
        (every, np.concatenate([np.arange(60), 300 + np.arange(60)])),
        (few, test),  # drawn for every text
        (np.arange(40).repeat(30), np.arange(40).repeat(2)),  # forty speakers
        (every[: len(every) // 3], every[: len(every) // 8]),
        (np.arange(300), np.arange(300)),
    ):
        assert find(captions(train, judged)) is None


@pytest.mark.parametrize("part", [1.0, 0.7])
def test_pictures_with_many_texts_of_which_not_all_were_hashed(part: float) -> None:
    draw = np.random.default_rng(5)
    train, test = split(np.arange(500).repeat(14), draw, 0.15)
    seen = captions(train[: int(part * len(train))], test, complete=part == 1)
    assert isinstance(find(seen), Finding)
    assert seen.pictures is not None
    assert find(replace(seen, pictures=replace(seen.pictures, keys=1))) is None  # a small world of drawings
    assert find(replace(seen, shared=30, mixed=0, complete=False)) is None  # a training score of what was not hashed


@pytest.mark.parametrize("part", [1.0, 0.7])
def test_pictures_with_many_texts_that_prove_nothing(part: float) -> None:
    draw = np.random.default_rng(6)
    every = np.arange(500).repeat(14)
    by_picture = every[every < 400], every[every >= 400]
    prompts = every, draw.choice(500, 300, replace=False).repeat(2)
    questions = every[14:][np.arange(14 * 499) % 14 > 1], np.arange(1, 250).repeat(2)  # two kinds are held out
    held = np.concatenate([np.arange(250).repeat(12), np.arange(250, 500).repeat(14)]), np.arange(250).repeat(2)
    for train, judged in (by_picture, prompts, questions, held):
        some = draw.permutation(train)[: int(part * len(train))]
        assert find(captions(some, judged, complete=part == 1)) is None
    for pool in (100, 500, 3000):
        train, judged = split(draw.integers(0, pool, 7000), draw, 0.15)
        assert find(captions(train[: int(part * len(train))], judged, complete=part == 1)) is None
