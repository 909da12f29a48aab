"""K1 on bare evidence and through its probe: names, values, dtypes, ties."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.checks.checkpoint.checkpoint_does_not_round_trip import find
from sightline.guard.evidence import RoundTripSeen
from sightline.guard.probes.round_trip import round_trip


class Tied(nn.Module):
    """Embedding and head share memory; a normalisation keeps statistics; the mask is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.head = nn.Embedding(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("mask", torch.ones(3, 3))


def judged(model: nn.Module, saved: dict[str, torch.Tensor]) -> Verdict:
    return find(round_trip(model, saved, Path("x.pt"), 1))


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def without(saved: dict[str, torch.Tensor], *names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in saved.items() if name not in names}


def test_all_of_it_or_one_name_of_a_tie() -> None:
    model = Tied()
    assert judged(model, state(model)) is None
    assert judged(model, without(state(model), "head.weight")) is None
    assert judged(model, without(state(model), "embed.weight")) is None


def test_a_head_dropped_as_tied_that_is_not() -> None:
    model = Tied()
    model.head.weight = nn.Parameter(model.embed.weight.detach().clone())
    verdict = judged(model, without(state(model), "head.weight"))
    assert isinstance(verdict, Finding) and verdict.severity == "error" and "head.weight" in verdict.message


def test_running_statistics_lost() -> None:
    model = Tied()
    saved = without(state(model), "norm.running_mean", "norm.running_var")
    verdict = judged(model, saved)
    assert isinstance(verdict, Finding) and "initial statistics" in verdict.message


def test_what_is_frozen_may_stay_with_its_source() -> None:
    model = Tied()
    model.embed.requires_grad_(False)
    assert judged(model, without(state(model), "embed.weight", "head.weight", "mask")) is None
    lost = judged(model, without(state(model), "embed.weight", "head.weight", "norm.running_mean"))
    assert isinstance(lost, Finding) and lost.seen["missing"] == ["norm.running_mean"]
    model.norm.requires_grad_(False)
    model.other = nn.Linear(2, 2)
    adapter = {name: tensor for name, tensor in state(model).items() if name.startswith("other")}
    assert judged(model, adapter) is None


@pytest.mark.parametrize(("dtype", "found"), [(torch.float32, False), (torch.float64, False), (torch.bfloat16, True)])
def test_dtypes_count_when_values_are_lost(dtype: torch.dtype, found: bool) -> None:
    model = Tied()
    verdict = judged(model, {n: t.to(dtype) if t.is_floating_point() else t for n, t in state(model).items()})
    if not found:
        assert verdict is None
        return
    assert isinstance(verdict, Finding) and verdict.severity == "warning" and "bfloat16" in verdict.message


def test_values_of_an_earlier_step() -> None:
    model = Tied()
    saved = state(model)
    with torch.no_grad():
        model.norm.weight.add_(0.5)
    verdict = judged(model, saved)
    assert isinstance(verdict, Finding) and verdict.severity == "error"
    assert verdict.seen == {"tensor": "norm.weight", "largest difference": 0.5}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_a_wrappers_prefix(prefix: str) -> None:
    model = Tied()
    verdict = judged(model, {prefix + name: tensor for name, tensor in state(model).items()})
    assert isinstance(verdict, Finding) and f"'{prefix}'" in verdict.message


def test_more_than_the_model() -> None:
    model = Tied()
    verdict = judged(model, state(model) | {"teacher.weight": torch.ones(2)})
    assert isinstance(verdict, Finding) and verdict.severity == "warning"


def test_a_file_of_another_layout_is_not_judged() -> None:
    assert isinstance(judged(Tied(), {"net": torch.ones(1), "epoch": torch.ones(1)}), CannotTell)
    assert isinstance(find(RoundTripSeen(1, "x.pt", 0)), CannotTell)


def test_the_same_nan_comes_back() -> None:
    model = Tied()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    assert judged(model, state(model)) is None
