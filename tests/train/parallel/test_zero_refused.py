"""What ZeRO needs and is not there is said before anything is read."""

from __future__ import annotations

import sys

import pytest
import torch

from sightline.errors import UserError
from sightline.recipe.schema import Parallel
from sightline.train.parallel.choose import layout_of
from sightline.train.parallel.ranks import Ranks


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    monkeypatch.delitem(sys.modules, "sightline.train.parallel.deepspeed", raising=False)
    with pytest.raises(UserError, match="zero2 is run by the package 'deepspeed'") as refused:
        layout_of(Parallel(kind="zero2"), Ranks(0, 2, torch.device("cpu")))
    assert "pip install 'sightline[deepspeed]'" in str(refused.value)


def test_offload_on_one_process() -> None:
    alone = Ranks(0, 1, torch.device("cpu"))
    with pytest.raises(UserError, match="run by several processes"):
        layout_of(Parallel(kind="zero3", offload="all"), alone)
    assert not layout_of(Parallel(kind="zero3"), alone).together
