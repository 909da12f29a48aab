"""Which file is opened again for each sample."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy
import pytest

from sightline.attach import reopened
from sightline.attach.script.reopened import _heard


@pytest.mark.parametrize("again", [True, False])
def test_an_archive(again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reopened, "TIMES", times := type(reopened.TIMES)())
    monkeypatch.setattr("sightline.attach.script.reopened.TIMES", times)
    for place in range(1 if again else 300):
        numpy.savez(tmp_path / f"{place}.npz", rows=numpy.arange(4))
    heard = True
    sys.addaudithook(lambda event, args: _heard(event, args) if heard else None)
    for place in range(300):
        with numpy.load(str(tmp_path / f"{0 if again else place}.npz")) as archive:
            assert len(archive["rows"]) == 4
    heard = False
    assert reopened.for_each(300) == (str(tmp_path / "0.npz") if again else None)
    assert reopened.for_each(100) is None and reopened.for_each(3000) is None
