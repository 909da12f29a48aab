"""Evaluations over pairs in the report: read, judged in words, and shown."""

from __future__ import annotations

import re

import pytest

from sightline.report.read import read_run
from sightline.report.terms import term_figures
from sightline.report.words import verdict
from tests.report.fake_run import NO_RESULT, metrics, pairs
from tests.report.test_page import matter


def run_of(build_run, evaluation):
    return read_run(build_run(**(NO_RESULT | {"evaluation": evaluation})))


def test_what_was_measured_is_read_both_ways(build_run):
    seen = run_of(build_run, pairs()).retrieval
    assert [share.name for share in seen.to_text.shares] == [f"Image to text, top {k}" for k in (1, 5, 10)]
    first = seen.to_text.shares[0]
    assert (first.value, first.chance) == (0.731, 0.043)
    assert first.interval == pytest.approx((0.721, 0.741))
    assert [share.value for share in seen.matching] == [0.962, 0.814]
    assert (seen.own_nats, seen.wrong_nats, seen.to_image.queries) == (0.412, 1.37, 880)


def test_the_end_of_the_run_and_a_stage_are_told_apart(variants):
    seen = read_run(variants["retrieval"])
    assert [one.after for one in seen.retrievals] == ["", "see"]
    assert seen.retrieval is seen.retrievals[0] and seen.evaluation is None and seen.notes == ()


@pytest.mark.parametrize(
    ("first", "tone", "short"),
    [
        (0.731, "good", "The model tells which text belongs to which image"),
        (0.05, "bad", "The model finds texts and images no better than chance"),  # chance 4.3 % is within the interval
    ],
)
def test_it_is_judged_against_chance(build_run, first, tone, short):
    looks = verdict(run_of(build_run, pairs(first))).looks
    assert (looks.tone, looks.short) == (tone, short)


def test_the_page_shows_it_first_and_every_bar_with_chance(variants):
    html = matter(variants["retrieval"])
    told = (
        "The model tells which text belongs to which image, and the guard found the run sound.",
        "78.1\u00a0% of 880 texts find their image first", "by chance 4.3\u00a0%", "Images and texts, after see",
        "Does this text belong to this image?", "81.4\u00a0%",
        "0.412 nats per token given their own image, 1.37 given", "Loss: itm", "5 and 10, on <em>captions-test</em>",
    )  # fmt: skip
    assert [part for part in told if part not in html] == []
    assert "73.1" in re.search(r'<p class="big">([^<]*)<', html).group(1)
    assert html.count('class="chance"') == 2 * (6 + 2)


@pytest.mark.parametrize(
    "broken",
    [
        {"image_to_text": None},
        {"text_to_image": {"recall": {"1": "high"}}},
        {"image_to_text": {"recall": {"1": 73.1}}},
    ],
)
def test_what_holds_no_recall_is_left_out_and_said(build_run, broken):
    seen = run_of(build_run, pairs() | broken)
    assert seen.retrievals == () and "holds no recall" in seen.notes[0]


def test_without_heads_only_retrieval_is_shown(build_run):
    seen = run_of(build_run, {k: v for k, v in pairs().items() if k not in ("matching", "caption_nats_per_token")})
    assert seen.retrieval.matching == () and seen.retrieval.own_nats is None


def test_each_loss_of_a_sum_has_its_curve_and_one_alone_has_none(variants, build_run):
    made = term_figures(read_run(variants["retrieval"]).history.train)
    assert [figure.title for figure in made] == ["Loss: itc", "Loss: itm", "Loss: itg"]
    lines = metrics()
    for line in lines:
        line["terms"] = {"itc": line.get("loss")}
    assert term_figures(read_run(build_run(metrics=lines)).history.train) == []


def test_weights_that_move_are_drawn_beside_their_losses(build_run):
    lines = metrics()
    for number, line in enumerate(lines):
        line["terms"] = {"itc": 2.0, "itm": 0.5}
        line["weights"] = {"itc": 1 / (number + 1), "itm": 1.0 + number}
    *_, weights = term_figures(read_run(build_run(metrics=lines)).history.train)
    assert weights.title == "Weights of the losses"
    assert [entry.name for entry in weights.key] == ["itc", "itm"] and len({entry.dash for entry in weights.key}) == 2
    assert [trace["name"] for trace in weights.data] == ["itc", "itm"]
