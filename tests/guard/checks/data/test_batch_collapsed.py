"""I4 on bare evidence: how far another sample may move, and how many may come out."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch

import sightline
from sightline.guard.check import CannotTell, Finding
from sightline.guard.checks.data.batch_collapsed import find
from sightline.guard.evidence import AxisSeen, Fed, FeedSeen, LoaderSeen, LossSeen, RowsSeen, SharedTextSeen

SEEN = RowsSeen(3, 4, (4, 2), own=1.0, others=(0.0, 0.0, 0.0), noise=1e-7)


def taught(ids: torch.Tensor, dim: int) -> LossSeen:
    """Each place is taught the id behind it along `dim`."""
    return LossSeen(3, 0, ids.numel(), 1.0, 1.0, 0.0, ids, ids.roll(-1, dim))


def test_only_the_changed_sample_moves() -> None:
    assert find(SEEN) is None


@pytest.mark.parametrize(("moved", "found"), [(0.5, True), (0.011, True), (0.009, False), (1e-6, False)])
def test_others_that_move(moved: float, found: bool) -> None:
    verdict = find(replace(SEEN, others=(moved, 0.0, 0.0)))
    assert isinstance(verdict, Finding) is found


COLUMNS = replace(SEEN, others=(0.5, 0.0, 0.0), output=(4, 6, 9), second=6, columns=True)


@pytest.mark.parametrize(
    ("rows", "shown", "found"),
    [
        (COLUMNS, {}, False),
        (replace(COLUMNS, columns=False), {}, True),
        (COLUMNS, {"loss": taught(torch.arange(24).view(4, 6), dim=1)}, True),
        (COLUMNS, {"loss": taught(torch.arange(24).view(4, 6), dim=0)}, False),
        (COLUMNS, {"loss": taught(torch.arange(24), dim=0)}, False),
        (COLUMNS, {"loader": LoaderSeen(0, 0, False, 0, size=4)}, True),
        (COLUMNS, {"loader": LoaderSeen(0, 0, False, 0, size=6)}, False),
        (replace(SEEN, output=(2, 3)), {}, True),
        (replace(SEEN, output=(2, 3), second=2), {}, False),
    ],
    ids=["unknown", "mixed", "beside", "below", "no rows", "loader", "columns of it", "lost", "a row a column"],
)
def test_columns_that_may_be_the_batch(rows: RowsSeen, shown: dict[str, Any], found: bool) -> None:
    assert isinstance(find(rows, **shown), Finding) is found


def test_others_that_move_by_jumps_alone() -> None:
    assert find(replace(SEEN, others=(0.5, 0.0, 0.0), jumps=True)) is None


def test_what_rounding_explains_is_silent() -> None:
    assert find(replace(SEEN, own=1.0, others=(0.3, 0.0, 0.0), noise=0.1)) is None


@pytest.mark.parametrize(
    ("alone", "found"),
    [((1e-4, 9e-5), True), ((1e-4, 5e-6), False), ((2e-6, 2e-6), False), ((0.0, 1.0), False)],
    ids=["pooled", "its own", "rounding", "another row's"],
)
def test_one_of_several_inputs(alone: tuple[float, float], found: bool) -> None:
    assert isinstance(find(replace(SEEN, alone=((0.5, 0.0), alone))), Finding) is found
    assert find(replace(SEEN, rows=3, output=(3, 2), alone=(alone,))) is None


def test_fewer_samples_out_than_in() -> None:
    found = find(replace(SEEN, output=(2, 4), own=None))
    assert isinstance(found, Finding) and found.message == "4 samples went in and 2 came out"


@pytest.mark.parametrize(
    "change",
    [
        {"own": 0.0},
        {"own": None, "output": (5, 2)},
        {"own": None, "output": (2, 4, 7)},
        {"others": (1.0, 1.0, 1.0), "varied": False},
        {"output": (1, 2), "own": None, "varied": False},
    ],
    ids=["no effect", "more out than in", "time first, for CTC", "one fixed set of rows", "one fixed set, pooled"],
)
def test_what_cannot_be_told(change: dict) -> None:
    assert isinstance(find(replace(SEEN, **change)), CannotTell)


def one_text(own: float, batches: int = 48, rows: int = 16, tasks: int = 4) -> SharedTextSeen:
    """Each batch has one of `tasks` texts, which is the class of sample 0 in a share `own` of the batches."""
    draw = random.Random(1)
    made = []
    for _ in range(batches):
        text = draw.randrange(tasks)
        classes = [draw.randrange(8) for _ in range(rows)]
        if draw.random() < own:
            classes[0] = text
        made.append((text, tuple(classes)))
    return SharedTextSeen(batches, tuple(made))


@pytest.mark.parametrize("own", [1.0, 0.9])
def test_a_text_that_was_one_samples_own(own: float) -> None:
    found = find(shared=one_text(own))
    assert isinstance(found, Finding) and found.severity == "error" and "that of sample 0" in found.message


@pytest.mark.parametrize(
    "shared",
    [
        one_text(0.0),
        one_text(0.2),
        one_text(1.0, batches=12),
        one_text(1.0, rows=6),
        one_text(1.0, tasks=1),
        SharedTextSeen(64, tuple((n, tuple((n + r) % 5 for r in range(12))) for n in range(64))),
        SharedTextSeen(64, tuple((n % 4, (n % 4,) * 12) for n in range(64))),
        SharedTextSeen(64, tuple((n % 3, (0, 0, *(((n * r) % 7) for r in range(10)))) for n in range(64))),
    ],
    ids=["a task", "hardly", "few batches", "few samples", "one prompt", "new each time", "tells all", "dull first"],
)
def test_a_text_for_all_samples(shared: SharedTextSeen) -> None:
    assert find(shared=shared) is None
    assert find(SEEN, shared) is None


def test_both_proofs_are_looked_at() -> None:
    assert isinstance(find(replace(SEEN, others=(0.5, 0.0, 0.0)), one_text(0.0)), Finding)


def fed(*batches: tuple[tuple[int, ...], tuple[int, ...] | None]) -> FeedSeen:
    return FeedSeen(9, tuple(Fed(step, *batch) for step, batch in enumerate(batches)))


def test_batches_that_are_one_sample_many_times() -> None:
    found = find(feed=fed(*[((n,) * 4, (0, 1, n % 3, 2)) for n in range(9)], ((5,), (1,))))
    assert isinstance(found, Finding) and "one and the same" in found.message


@pytest.mark.parametrize(
    "batches",
    [
        [((n,) * 4, (1, 1, 1, 1)) for n in range(9)],
        [((n,) * 4, None) for n in range(9)],
        [((7,) * 4, (0, 1, n % 3, 2)) for n in range(9)],
        [((n, n, n, n + 1), (0, 1, n % 3, 2)) for n in range(9)],
        [((n,) * 4, (0, 1, n % 3, 2)) for n in range(7)],
    ],
    ids=["a group of one class", "no classes", "always the same input", "two inputs", "few batches"],
)
def test_inputs_that_may_repeat(batches: list[tuple[tuple[int, ...], tuple[int, ...] | None]]) -> None:
    """Samples of one prompt, a bandit without a context, draws from a few inputs."""
    assert isinstance(find(feed=fed(*batches)), CannotTell)
    assert find(SEEN, feed=fed(*batches)) is None


def taught_rows(*places: int | None, rows: int = 4, batches: int = 16) -> FeedSeen:
    """Batches of different inputs, in which these rows have a gradient."""
    told = tuple(place for place in places if place is not None)
    made = [Fed(n, tuple(range(rows * n, rows * n + rows)), taught=told or None) for n in range(batches)]
    return FeedSeen(batches, tuple(made))


LOADER = LoaderSeen(0, 0, False, 0, size=4)


def test_batches_without_any_gradient_say_nothing() -> None:
    """The signs of an absolute error, over all targets of a batch, may add up to none."""
    none = tuple(Fed(n, (n, 1, 2, 3), taught=()) for n in range(100, 108))
    found = find(SEEN, feed=FeedSeen(108, (*taught_rows(0).batches, *none)), loader=LOADER)
    assert isinstance(found, Finding) and "the first one alone" in found.message
    assert find(SEEN, feed=FeedSeen(108, none * 4), loader=LOADER) is None


@pytest.mark.parametrize(("place", "word"), [(3, "last"), (0, "first")])
def test_one_sample_of_each_batch_teaches(place: int, word: str) -> None:
    found = find(SEEN, feed=taught_rows(place), loader=LOADER)
    assert isinstance(found, Finding) and f"the {word} one alone" in found.message


@pytest.mark.parametrize(
    ("rows", "feed", "loader"),
    [
        (SEEN, taught_rows(2), LOADER),
        (SEEN, taught_rows(0, 3), LOADER),
        (SEEN, taught_rows(3, batches=15), LOADER),
        (SEEN, taught_rows(None), LOADER),
        (SEEN, taught_rows(3), replace(LOADER, size=2)),
        (SEEN, taught_rows(3), None),
        (replace(SEEN, others=(1e-3, 0.0, 0.0)), taught_rows(3), LOADER),
        (
            SEEN,
            FeedSeen(32, (*taught_rows(3).batches, *(Fed(n, (n, 1, 2, 3), (0, 1, 0, 1)) for n in range(16)))),
            LOADER,
        ),
        (SEEN, FeedSeen(16, tuple(Fed(n, (n,) * 4, taught=(3,)) for n in range(16))), LOADER),
    ],
    ids=["in between", "both", "few", "classes", "joined", "no loader", "a sequence", "now and then", "one input"],
)
def test_rows_that_may_have_no_gradient(rows: RowsSeen, feed: FeedSeen, loader: LoaderSeen | None) -> None:
    assert find(rows, feed=feed, loader=loader) is None


def test_a_softmax_over_samples() -> None:
    found = find(SEEN, axis=AxisSeen(9, (32, 4), (32, 4), 0, samples=True))
    assert isinstance(found, Finding) and "over the samples" in found.message
    assert find(SEEN, axis=AxisSeen(9, (4, 3, 8), (32, 3), 1)) is None


@pytest.mark.parametrize("each", [False, True], ids=["the last one", "each by itself"])
def test_losses_of_single_samples(each: bool) -> None:
    """A loop that goes backward for each sample has as many passes through one output."""
    torch.manual_seed(0)
    data = torch.utils.data.TensorDataset(torch.randn(80, 6), torch.randint(0, 3, (80,)))
    loader = torch.utils.data.DataLoader(data, 4, shuffle=True)
    model = torch.nn.Linear(6, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with sightline.attach(model, optimizer, dataloader=loader, on_finding=None) as guard:
        for x, y in loader:
            optimizer.zero_grad()
            out = model(x)
            losses = [torch.nn.functional.cross_entropy(out[i : i + 1], y[i : i + 1]) for i in range(4)]
            for loss in losses if each else losses[-1:]:
                loss.backward(retain_graph=True)
            optimizer.step()
    assert ("I4" in {finding.code for finding in guard.findings}) is not each
