"""What `sightline run` hears of a process, for one test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from sightline.attach.origins import ORIGINS, Origins
from sightline.attach.script.origins import RANDOM, Told


@pytest.fixture
def origins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As under `sightline run`, for one test."""
    for name, nothing in vars(Origins()).items():
        monkeypatch.setattr(ORIGINS, name, nothing)
    torch_nn = [sys.modules[name] for name in list(sys.modules) if name.startswith("torch.nn.")]
    were = [(place, name, getattr(place, name)) for place in torch_nn for name in RANDOM if hasattr(place, name)]
    load_state, add = nn.Module.load_state_dict, torch.optim.Optimizer.add_param_group
    problems: list[str] = []
    telling = Told(problems.append)
    telling.install()
    if (library := sys.modules.get("transformers.modeling_utils")) is not None:
        kind, kept = library.PreTrainedModel, sys.modules["transformers.initialization"].TORCH_INIT_FUNCTIONS
        for name, fill in kept.items():
            monkeypatch.setitem(kept, name, fill)
        monkeypatch.setattr(kind, "from_pretrained", kind.__dict__["from_pretrained"])
        monkeypatch.setattr(kind, "resize_token_embeddings", kind.resize_token_embeddings)
        telling._transformers()
    yield
    for place, name, was in were:
        setattr(place, name, was)
    nn.Module.load_state_dict, torch.optim.Optimizer.add_param_group = load_state, add  # type: ignore[method-assign]
    assert not problems
