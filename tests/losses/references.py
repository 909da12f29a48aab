"""Other people's losses, loaded by file where they are installed: their packages import torchvision at the top."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from types import ModuleType

import pytest


def _folder(package: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"{distribution} is not installed (pip install --no-deps {distribution})")
    return Path(spec.origin).parent


def open_clip_losses() -> ModuleType:
    """`open_clip.loss`, which needs torch alone."""
    path = _folder("open_clip", "open_clip_torch") / "loss.py"
    spec = importlib.util.spec_from_file_location("open_clip_loss_by_file", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torchmultimodal(module: str, monkeypatch: pytest.MonkeyPatch, **named: str) -> ModuleType:
    """A module of torchmultimodal without what its package imports first.

    `named` are names that it imports for its annotations alone, and the modules it has them from.
    """
    folder = _folder("torchmultimodal", "torchmultimodal-nightly")
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchmultimodal"]:
        monkeypatch.delitem(sys.modules, name)
    package = types.ModuleType("torchmultimodal")
    package.__path__ = [str(folder)]
    monkeypatch.setitem(sys.modules, "torchmultimodal", package)
    for name, origin in named.items():
        stand_in = types.ModuleType(f"torchmultimodal.{origin}")
        setattr(stand_in, name, object)
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return importlib.import_module(f"torchmultimodal.{module}")
