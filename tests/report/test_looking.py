"""Whether it looks, leaks and rules on the page."""

from __future__ import annotations

import json
import re
from html import unescape

from sightline.report.looking import points
from sightline.report.page import write_report
from sightline.report.read import read_run
from tests.report.fake_run import evaluation, leaks, looking, pairs


def words_of(run, part=""):
    page = write_report(run).read_text(encoding="utf-8")
    page = page[: page.index('<script type="application/json"')] if '<script type="application/json"' in page else page
    if part:
        start = page.index(f'<section id="{part}"')
        page = page[start : page.index("</section>", start)]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", page)).replace("\u00a0", " ").split())


def test_the_conditions_stand_beside_the_right_picture_in_the_order_of_what_they_leave(build_run):
    said = words_of(build_run(), "looking")
    assert said.startswith("Does it look? It looks: the right image adds +46.0 points (+44.9 to +47.1).")
    names = ["The right picture", "Blurred", "Another picture", "Noise", "No picture", "Words alone", "Always no"]
    assert sorted(names, key=said.index) == names
    assert "Another picture 52.1 % +46.0 +45.0 to +47.0" in said
    assert "2,509 pairs" in said and "Both right 95.7 %" in said and "The same answer to both 3.3 %" in said
    assert "McNemar’s exact p below 1e-12" in said and "It looks where" in said


def test_a_verdict_against_it_is_told_in_the_headline_and_in_its_section(build_run):
    run = build_run(evaluation=evaluation() | {"looking": looking("does not look")})
    assert "The model does not look at the picture, but the guard found the run sound." in words_of(run)
    assert "It does not look:" in words_of(run, "looking")


def test_leaks_are_told_before_the_score_and_listed_with_both_places(build_run):
    said = words_of(build_run(evaluation=evaluation() | {"leaks": leaks(130)}))
    loud = said.index("Leak: 130 of 1,000 test pictures were also trained on ; on the other questions")
    assert loud < said.index("answered right")
    assert "test row 3 a/3.jpg = train row 41 b/41.jpg near duplicate, 12 of 256 bits differ" in said
    assert "and 30 more in leaks.jsonl" in said and "the score is 61.2 % (60.0 % to 62.4 %)" in said


def test_no_leak_is_one_quiet_fact(build_run):
    run = build_run()
    assert "Leaks none in 1,000 test pictures" in words_of(run)
    assert 'id="leaks"' not in (run / "report.html").read_text(encoding="utf-8")


def test_leaks_of_pairs_are_told_too(build_run):
    said = words_of(build_run(evaluation=pairs() | {"leaks": leaks(2)}))
    assert "Leak: 2 of 1,000 test pictures were also trained on" in said


def test_the_rule_is_named_and_every_field_has_its_table(variants):
    said = words_of(variants["leaky"])
    assert "VQA accuracy by the official rule on 9,673 questions of test" in said
    assert "exact-match" not in said
    types = words_of(variants["leaky"], "types")
    assert "Answer type" in types and "Question type" in types and "12 more types" in types
    assert "1,266 asked, it looks" in types and "looks? cannot tell" in types


def test_an_evaluation_of_before_has_neither(build_run):
    older = {key: value for key, value in evaluation().items() if key not in ("looking", "leaks", "by_field", "rule")}
    run = build_run(evaluation=older)
    seen = read_run(run)
    assert seen.evaluation is not None and seen.evaluation.looking is None and seen.leaks is None
    assert "The model looks at the picture" in words_of(run) and "Does it look?" not in words_of(run)


def test_values_of_the_wrong_kind_are_left_out(build_run):
    broken = evaluation() | {
        "looking": looking() | {"conditions": {"blind": 3, "noise": {"accuracy": "?"}}, "counterfactual": []},
        "leaks": leaks(1) | {"listed": "?", "kinds": [], "not_compared": 3},
        "by_field": {"type": 3},
    }
    run = build_run(evaluation=json.loads(json.dumps(broken)))
    assert "Does it look?" in words_of(run) and "counterfactual" in words_of(run, "looking")


def test_points_have_a_sign():
    assert (points(0.394), points(-0.02), points(None)) == ("+39.4", "\u22122.0", "–")
