"""What the page says of changed training images and of stopping by accuracy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from sightline.report.page import render
from sightline.report.read import read_run
from tests.report import fake_run


def _page(folder: Path, augment: dict[str, Any] | None, accuracies: list[float]) -> str:
    facts = fake_run.run_facts()
    facts["stages"][0] |= {"augment": augment} if augment else {}
    lines = fake_run.metrics()
    for line, accuracy in zip((one for one in lines if one["event"] == "validation"), accuracies, strict=False):
        line["accuracy"] = accuracy
    (folder / "run.json").write_text(json.dumps(facts))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return re.sub(r"\s+", " ", re.sub("<[^>]+>", " ", render(read_run(folder)).split("<main", 1)[-1]))


def test_exempt_rows_and_the_best_accuracy_are_told(tmp_path: Path) -> None:
    told = _page(tmp_path, {"rows": 38575, "flip": 0, "colour": 27049}, [0.4, 0.625, 0.6])
    stage = fake_run.stage_facts()[0]["name"]
    assert (
        f"{stage} changed training images only where the answers stay true. Of 38,575 rows, 0 are never mirrored,"
        in told
    )
    assert "27,049 keep their colours ." in told or "27,049 keep their colours." in told
    assert "never cropped" not in told and "accuracy 62.5 %" in told


def test_nothing_is_said_where_nothing_was_changed(tmp_path: Path) -> None:
    told = _page(tmp_path, None, [])
    assert "changed training images" not in told and "accuracy 62.5" not in told


@pytest.mark.parametrize("broken", [{"rows": "many"}, [], {"flip": 3}])
def test_a_strange_record_breaks_nothing(tmp_path: Path, broken: Any) -> None:
    _page(tmp_path, broken, [])
