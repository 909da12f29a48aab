from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from sightline.errors import UserError
from sightline.report.page import render, write_report
from sightline.report.plots import figures
from sightline.report.read import read_run
from tests.report.fake_run import HOSTILE, VARIANTS, metrics

SCRIPT = re.compile(r"<script[^>]*>.*?</script>", re.S)


def page(folder) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def matter(folder) -> str:
    """The page without its scripts and pictures."""
    return re.sub(r"data:image/[^\"]+", "", SCRIPT.sub("", page(folder)))


class Fetches(HTMLParser):
    """Collects what a page would fetch or lead to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.found += [
            value or "" for name, value in attrs if name in ("src", "srcset", "href", "action", "data", "poster")
        ]
        self.found += [name for name, _ in attrs if name.startswith("on")]


@pytest.mark.parametrize("name", VARIANTS)
def test_the_page_refers_to_nothing_outside_itself(variants, name):
    html = matter(variants[name])
    seen = Fetches()
    seen.feed(html)
    assert [place for place in seen.found if place[:1] != "#" and place not in ("data:,", "")] == []
    assert not seen.tags & {"iframe", "object", "embed", "form", "base", "video", "audio", "b>"}
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style and "url(" not in style
    assert "default-src 'none'" in html


def test_the_headline_says_it_all(variants):
    html = matter(variants["finished"])
    told = ("The model looks at the picture, and the guard found the run sound.", "97.8\u00a0% to 98.4\u00a0%")
    numbers = ("52.1\u00a0%", "67.8\u00a0%", "28.4\u00a0%", "9,673", "4\u00a0min 41\u00a0s", "1.65\u00a0M")
    assert [part for part in (*told, *numbers) if part not in html] == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("interrupted", ["Interrupted", "after step 3 of 300", "--resume", "No result"]),
        ("failed", ["Failed", "RuntimeError: out of memory", "half-written line", "2</th><td>truncated JPEG",
                    "Loss scale", "1</th><td>not named in run.json"]),
        ("findings", ["The model does not look at the picture, and the guard found 1\u00a0error and 1\u00a0warning.",
                      "3,904 of 5,120 supervised tokens lie inside the prompt.", "set labels to -100 up to the answer",
                      "Seen 3\u00a0times more", "the last block is not read"]),
        ("bare", ["run.json is missing", "The guard left no record", "No training step was logged"]),
    ],
)  # fmt: skip
def test_what_went_wrong_is_told(variants, name, told):
    html = matter(variants[name])
    assert [part for part in told if part not in html] == []


def test_hostile_texts_stay_texts(variants):
    html = page(variants["hostile"])
    assert "<img src=x" not in html and "<script>window" not in html and "{{7*7}}" in html
    assert html.count("<script") == html.count("</script>") == 3
    data = re.search(r'<script type="application/json" id="figures">(.*?)</script>', html, re.S)
    assert data and json.loads(data[1])["stages"][0]["label"].startswith("1 &lt;/script&gt;")


def test_plotly_is_there_once_and_only_where_there_is_a_plot(variants):
    assert page(variants["finished"]).count("Copyright 2012") >= 1
    assert (variants["finished"] / "report.html").stat().st_size < 7_000_000
    assert (variants["bare"] / "report.html").stat().st_size < 60_000


def test_the_same_run_gives_the_same_page(build_run):
    run = build_run()
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first


def test_the_page_replaces_the_old_one_and_leaves_nothing_beside_it(build_run):
    run = build_run()
    (run / "report.html").write_text("old")
    before = set(run.iterdir())
    assert write_report(run) == run / "report.html"
    assert set(run.iterdir()) == before
    assert (run / "report.html").stat().st_mode & stat.S_IRGRP


def test_a_page_that_cannot_be_replaced_is_said_and_leaves_nothing_behind(build_run):
    run = build_run()
    (run / "report.html").mkdir()
    before = set(run.iterdir())
    with pytest.raises(UserError, match=r"could not be written"):
        write_report(run)
    assert set(run.iterdir()) == before


@pytest.mark.parametrize("missing", ["facts", "metrics", "findings", "evaluation", "predictions", "gallery", "recipe"])
def test_any_one_file_may_be_missing(build_run, missing):
    assert "</html>" in render(read_run(build_run(**{missing: None})))


@pytest.mark.parametrize("kept", [0, 1, 2, 61])
def test_any_number_of_steps_can_be_drawn(build_run, kept):
    made = {figure.id: figure for figure in figures(read_run(build_run(metrics=metrics()[:kept])).history)}
    assert bool(made) == bool(kept)
    for figure in made.values():
        assert any(trace["y"] for trace in figure.data)
        json.dumps(figure.data, allow_nan=False)


def test_a_loss_that_blew_up_is_counted_not_hidden(build_run):
    lines = metrics(until=30)
    lines[3]["loss"], lines[4]["loss"] = float("nan"), float("inf")
    html = render(read_run(build_run(metrics=lines)))
    assert "2\u00a0logged steps had no finite loss" in html


@pytest.mark.slow
def test_a_spike_survives_20000_points(variants):
    history = read_run(variants["huge"]).history
    assert len(history.train) > 20_000
    loss = next(figure for figure in figures(history) if figure.id == "loss")
    raw = loss.data[0]["y"]
    assert len(raw) < 2100 and 987.0 in raw and "Drawn from 20,700 points" in loss.note


def test_every_tower_has_one_colour_on_the_whole_page(variants):
    made = figures(read_run(variants["finished"]).history)
    colours = {
        (key.name, key.colour)
        for figure in made
        for key in figure.key
        if key.colour[1:] in ("vision", "connector", "language")
    }
    assert colours == {("vision", "@vision"), ("connector", "@connector"), ("language", "@language")}


def test_the_healthy_band_of_the_update_ratio_is_drawn(variants):
    made = {figure.id: figure for figure in figures(read_run(variants["finished"]).history)}
    bands = [shape for shape in made["update-ratio"].layout["shapes"] if shape["type"] == "rect"]
    assert [(band["y0"], band["y1"]) for band in bands] == [(1e-4, 1e-2)]
    assert made["update-ratio"].layout["yaxis"]["type"] == made["loss"].layout["yaxis"]["type"] == "log"
    assert "loss-scale" not in made


def test_the_report_reads_without_torch(variants):
    run = variants["finished"]
    code = (
        "import sys, sightline.report.page; from pathlib import Path; from sightline.report.read import read_run\n"
        f"read_run(Path({str(run)!r})); assert not {{'torch', 'plotly', 'jinja2'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_hostile_text_is_really_hostile():
    assert all(part in HOSTILE for part in ("</script>", "onerror", "{{", "\u2028", "\ud800"))
