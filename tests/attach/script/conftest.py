"""Scripts of several models, watched as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.forked import Forks

Codes = Callable[[str], set[tuple[str, str]]]


@pytest.fixture
def codes(tmp_path: Path, forks: Forks) -> Codes:
    """Runs a script under `sightline run`, without problems, and returns (class of the model, code) of each finding."""

    def run(script: str) -> set[tuple[str, str]]:
        (tmp_path / "train.py").write_text(script)
        forks.run("sightline", "run", "--findings", "told.json", "train.py", cwd=tmp_path)
        told = json.loads((tmp_path / "told.json").read_text())
        assert not told["run"]["problems"]
        return {(one["model"].split()[0], one["code"]) for one in told["findings"]}

    return run
