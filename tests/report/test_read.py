from __future__ import annotations

import json
import math

import pytest

from sightline.errors import UserError
from sightline.report.read import read_run
from tests.report.fake_run import check_lines, evaluation, metrics, run_facts


def test_a_finished_run_is_read_whole(variants):
    run = read_run(variants["finished"])
    assert run.notes == ()
    assert (run.facts.status, run.facts.settings["seed"], run.facts.machine["memory"]) == ("finished", "0", "24.0 GiB")
    assert [tower.name for tower in run.facts.towers] == ["vision", "connector", "language"]
    assert [stage.learn["vision"] for stage in run.facts.stages] == ["all", "frozen", "frozen"]
    assert len(run.history.train) == 300 and run.history.last_step == 900
    assert (len(run.guard.passed), len(run.guard.unseen), run.guard.found) == (7, 1, ())
    assert [group.name for group in run.evaluation.groups] == ["shape", "yes or no", "color"]  # worst first
    assert (run.mistakes.wrong, run.mistakes.pairs[0].count) == (15, 13)
    assert all(picture.thumbnail.startswith("data:image/png") for picture in run.pictures)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"not a run directory: it has none of run\.json, recipe\.yaml"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        read_run(tmp_path / "file")


def test_a_half_written_last_line_is_left_out_and_said(variants):
    run = read_run(variants["failed"])
    assert run.notes == ("metrics.jsonl ends in a half-written line (line 130), which is left out.",)
    assert run.history.train[-1].step == 366


def test_broken_lines_are_counted_and_said(build_run):
    run = build_run()
    lines = (run / "metrics.jsonl").read_text().splitlines()
    lines[4], lines[9] = "not json", "[1, 2]"
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    seen = read_run(run)
    assert seen.notes == ("metrics.jsonl: 2 lines are not a JSON object (first: line 5) and left out.",)
    assert len(seen.history.train) == 298


@pytest.mark.parametrize("name", ["run.json", "evaluation.json", "gallery.json"])
@pytest.mark.parametrize("content", [b'{"name": "qui', b"\xff\xfe\x00", b"", b"3", b"[" * 100_000])
def test_a_broken_file_is_said_and_the_rest_is_read(build_run, name, content):
    run = build_run()
    (run / name).write_bytes(content)
    seen = read_run(run)
    assert len(seen.notes) == 1 and seen.notes[0].startswith(name)
    assert len(seen.history.train) == 300


def test_values_of_the_wrong_type_are_as_if_absent(build_run):
    wrong = {key: 7 if isinstance(value, dict | list | str) else ["x"] for key, value in run_facts().items()}
    lines = [{**line, "loss": "low", "lr": [1], "seconds": True} for line in metrics()]
    seen = read_run(build_run(facts=wrong, metrics=lines))
    assert seen.facts.towers == () and seen.facts.stages == () and dict(seen.facts.time) == {}
    assert all(point.loss is None and point.lr == {} and point.clock is None for point in seen.history.train)


def test_an_accuracy_that_is_no_fraction_is_not_shown(build_run):
    seen = read_run(build_run(evaluation=evaluation() | {"accuracy": 98.1}))
    assert seen.evaluation is None and "no accuracy between 0 and 1" in seen.notes[0]


def test_unscored_answers_are_no_fault(build_run):
    unscored = {"data": "test", "metric": "none", "questions": 3, "partial": False}
    pictures = [{"thumbnail": "", "question": "?", "answer": "a", "truth": "b", "correct": None}]
    seen = read_run(build_run(evaluation=unscored, gallery=pictures))
    assert seen.evaluation is None and seen.notes == () and seen.pictures[0].correct is None


def test_what_a_resume_repeats_is_counted_once_on_one_clock(build_run):
    lines = metrics(every=1)
    before = [line for line in lines if line["global_step"] <= 240]
    after = [{**line, "seconds": (line["global_step"] - 200) * 0.28} for line in lines if line["global_step"] > 200]
    seen = read_run(build_run(metrics=[*before, {"event": "resume", "global_step": 200}, *after])).history
    assert [point.step for point in seen.train] == list(range(1, 901))
    assert (seen.resumed_at, seen.repeated) == ((200,), 40)
    clocks = [point.clock for point in seen.train]
    assert clocks == sorted(clocks) and clocks[-1] == pytest.approx(clocks[199] + 700 * 0.28)


def test_a_loss_that_is_not_finite_is_kept_as_such(build_run):
    lines = metrics(until=30)
    lines[3]["loss"] = math.nan
    run = build_run(metrics=lines)
    assert "NaN" in (run / "metrics.jsonl").read_text()
    assert math.isnan(read_run(run).history.train[3].loss)


def test_findings_of_one_check_stand_together_the_worst_first(variants):
    found = read_run(variants["findings"]).guard.found
    assert [(group[0].code, len(group)) for group in found] == [("L2", 1), ("X6", 4)]
    assert found[0][0].evidence["inside_prompt"] == "3904"


def test_a_silent_guard_is_not_an_absent_one(build_run):
    assert read_run(build_run("silent", findings=check_lines())).guard.recorded
    assert not read_run(build_run("absent", findings=None)).guard.recorded


@pytest.mark.parametrize(
    ("rule", "words"),
    [("all", "all"), ("none", "frozen"), ("lora", "LoRA"), ("last 2", "last 2 blocks"), ({"last": 2}, "last 2 blocks"),
     ({"norms": True}, "norm layers"), ({"pattern": "q_proj"}, "parameters matching q_proj")],
)  # fmt: skip
def test_rules_in_words(build_run, rule, words):
    stage = run_facts()["stages"][0] | {"learn": {"vision": rule}}
    assert read_run(build_run(facts={"stages": [stage]})).facts.stages[0].learn["vision"] == words


def test_pictures_come_from_the_file_itself_or_not_at_all(variants):
    assert [picture.thumbnail for picture in read_run(variants["hostile"]).pictures] == ["", "", ""]


def test_a_large_gallery_is_cut_and_said(build_run):
    entry = {"thumbnail": "", "question": "?", "answer": "a", "truth": "a", "correct": True}
    seen = read_run(build_run(gallery=[entry] * 200))
    assert len(seen.pictures) == 96 and "the first 96 are shown" in seen.notes[0]


def test_numbers_beyond_a_float_do_not_stop_the_page(build_run):
    run = build_run()
    facts = json.loads((run / "run.json").read_text())
    facts["time"]["step"] = 10**400
    (run / "run.json").write_text(json.dumps(facts))
    assert math.isinf(read_run(run).facts.time["step"])
