"""How a run breaks, in the report: read, drawn, and said whether to believe it."""

from __future__ import annotations

import json

import pytest

from sightline.report.attack_figures import attack_figures
from sightline.report.read import read_run
from tests.report.robust_run import robustness
from tests.report.test_page import matter


def seen(build_run, made):
    folder = build_run()
    (folder / "robustness.json").write_text(json.dumps(made))
    return read_run(folder), folder


def test_what_was_measured_is_read(build_run):
    run, _ = seen(build_run, robustness())
    found = run.robustness
    assert run.notes == () and (found.questions, found.of, found.partial) == (200, 9673, True)
    assert [curve.name for curve in found.curves] == ["fgsm-linf", "pgd-linf", "pgd-l2", "patch"]
    assert [curve.bound(curve.points[0].epsilon) for curve in found.curves] == ["1/255", "1/255", "0.5", "1.0\u00a0%"]
    assert found.worst[0].name == "pgd-linf" and found.worst[1].epsilon == pytest.approx(8 / 255)
    assert found.failed == () and sum(check.passed is None for check in found.checks) == 1
    assert found.severities == ["1", "2", "3", "4", "5"] and len(found.corruptions) == 6
    assert list(found.words) == ["With typos", "In capitals", "Paraphrased"]
    assert [lie.questions for lie in found.lies] == [180], "a lie that nobody was told is not shown"
    assert found.lies[0].followed.value == 0.55 and found.lies[0].control.value == 0.9


def test_the_curves_begin_untouched_and_say_what_they_show(build_run):
    figures = attack_figures(seen(build_run, robustness())[0].robustness)
    assert [figure.id for figure in figures] == ["attack-1", "attack-2", "attack-3", "attack-4"]
    band, noise, line = figures[1].data
    assert line["x"] == pytest.approx([0, 1, 2, 4, 8]) and line["y"][0] == 95.0
    assert noise["y"][1:] == pytest.approx([94.0] * 4) and len(band["x"]) == 10
    assert "8/255" in figures[1].alt and "95.0\u00a0% untouched" in figures[1].alt
    assert figures[1].note == "10 steps, 2 starts. ".replace(" steps", "\u00a0steps").replace(" starts", "\u00a0starts")
    assert figures[3].data[2]["x"] == pytest.approx([0, 1, 4])
    assert not any(figure.linked for figure in figures)


def test_a_believed_run_and_one_that_hides_its_gradients(build_run, variants):
    run, folder = seen(build_run, robustness())
    html = matter_of(folder)
    assert "How it breaks" in html and "Do not take these curves" not in html
    assert "The attacks passed 8\u00a0checks" in html and 'href="#robustness"' in html
    hidden = matter(variants["robust"])
    assert "Do not take these curves for robustness." in hidden and "2\u00a0checks of the attacks failed" in hidden
    assert "<b>gradient, gradient not zero</b>: zero in all rows" in hidden
    assert hidden.count("<img") >= 24 + 12 and "--lost:11%" in hidden
    assert "What it breaks" not in hidden and run.robustness is not None


def matter_of(folder):
    from sightline.report.page import write_report

    write_report(folder)
    return matter(folder)


@pytest.mark.parametrize("made", [{}, {"clean": {"accuracy": 3}}, {"attacks": 1}])
def test_what_cannot_be_read_is_left_out_and_told(build_run, made):
    run, folder = seen(build_run, made)
    assert run.robustness is None and len(run.notes) == (1 if made else 0)
    assert 'id="robustness"' not in matter_of(folder)


def test_a_run_without_it_has_no_such_part(variants):
    assert 'id="robustness"' not in matter(variants["finished"])
