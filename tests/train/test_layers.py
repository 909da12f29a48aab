"""Layers looked into: the numbers against independent ones, and a run that looks is the run that does not."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from sightline.data.pack import pack
from sightline.models.build import Built
from sightline.train.layers import LayersSeen, attention_entropy, layers_of
from sightline.train.parallel.ranks import Ranks
from sightline.train.record import StepRecord, rows_print
from sightline.train.run import train
from sightline.train.step import StepResult
from tests.doctor import planted

ALONE = Ranks(0, 1, torch.device("cpu"))


def batch_of(built: Built, drawn: list[Any]) -> Any:
    sequences = pack([built.encoder.encode(row) for row in drawn[:4]], "none", 512)
    return built.encoder.collate(sequences)


def result(norm: float = 1.0) -> StepResult:
    return StepResult(torch.tensor(2.0), 4, torch.tensor(norm), False)


def test_every_parameter_that_learns_is_in_one_layer(built: Built) -> None:
    for name, parameter in built.model.named_parameters():
        parameter.requires_grad_(not name.startswith("vision") or "layers.1" in name)
    layers = layers_of(built.model)
    assert list(layers) == [
        "vision.1", "connector.0", "connector.2", "language.in", "language.0", "language.1", "language.out",
    ]  # fmt: skip
    held = [id(p) for parameters in layers.values() for p in parameters]
    assert sorted(held) == sorted(id(p) for p in built.model.parameters() if p.requires_grad)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", ["no", "bool", "added"])
def test_entropy_is_that_of_the_weights(causal: bool, masked: str) -> None:
    """Against the softmax of every position, written out."""
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 7, 8), torch.randn(2, 2, 7, 8)
    seen = torch.rand(2, 1, 7, 7) > 0.3
    seen |= torch.eye(7, dtype=torch.bool)
    mask = {"no": None, "bool": seen, "added": torch.zeros(seen.shape).masked_fill(~seen, -1e9)}[masked]
    expected = []
    for b in range(2):
        for h in range(4):
            for t in range(7):
                places = [s for s in range(7) if (masked == "no" or seen[b, 0, t, s]) and (not causal or s <= t)]
                if len(places) > 1:
                    scores = torch.stack([query[b, h, t] @ key[b, h // 2, s] for s in places]) / math.sqrt(8)
                    weights = scores.softmax(0)
                    expected.append(float(-(weights * weights.log()).sum() / math.log(len(places))))
    found = attention_entropy(query, key, mask, causal, None)
    assert float(found) == pytest.approx(sum(expected) / len(expected), abs=1e-5)


@pytest.mark.parametrize("recomputed", [False, True])
def test_attention_is_seen_in_every_block_whatever_computes_it(built: Built, rows: list[Any], recomputed: bool) -> None:
    """torch's fused attention and the eager one, which gives its weights to be seen, say the same."""
    built.model.set_gradient_checkpointing(recomputed)
    batch, told = batch_of(built, rows), []
    for kind in ("sdpa", "eager"):
        for part in built.model.modules():
            if isinstance(part, PreTrainedModel):
                part.set_attn_implementation(kind)
                assert part.config._attn_implementation == kind
        seen = LayersSeen(built.model)
        with seen:
            built.model(batch)[0].logsumexp(-1).mean().backward()
        told.append(seen.told(result(), None, ALONE)["attention_entropy"])
        built.model.zero_grad()
    assert set(told[0]) == {"vision.0", "vision.1", "language.0", "language.1"}
    assert told[0] == pytest.approx(told[1], abs=2e-3)
    assert all(0 < value <= 1 for value in told[0].values())


def test_norms_are_those_of_the_gradients_and_of_the_towers(built: Built, rows: list[Any]) -> None:
    seen = LayersSeen(built.model)
    with seen:
        built.model(batch_of(built, rows))[0].logsumexp(-1).mean().backward()
    for parameter in layers_of(built.model)["connector.2"]:
        parameter.grad = None
    before = {name: [p.detach().clone() for p in ps] for name, ps in layers_of(built.model).items()}
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.mul_(1.01)
    told = seen.told(result(), None, ALONE)
    assert told["grad_norm"]["connector.2"] is None
    for name, parameters in layers_of(built.model).items():
        if name != "connector.2":
            norm = math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in parameters if p.grad is not None))
            assert told["grad_norm"][name] == pytest.approx(norm, rel=1e-3)
        weight = math.sqrt(sum(float((p.double() ** 2).sum()) for p in before[name]))
        assert told["weight_norm"][name] == pytest.approx(1.01 * weight, rel=1e-3)
        assert told["update_ratio"][name] == pytest.approx(0.01, rel=1e-2)


def test_norms_are_told_as_they_were_before_clipping(built: Built, rows: list[Any]) -> None:
    built.model(batch_of(built, rows))[0].logsumexp(-1).mean().backward()
    seen = LayersSeen(built.model)
    before = seen.told(result(), None, ALONE)["grad_norm"]
    total = nn.utils.clip_grad_norm_(built.model.parameters(), 1e-3)
    assert seen.told(result(float(total)), 1e-3, ALONE)["grad_norm"] == pytest.approx(before, rel=1e-2)


def test_dead_units(built: Built, rows: list[Any]) -> None:
    """Units of the connector's activation that a bias holds far below 0."""
    with torch.no_grad():
        built.model.connector[0].bias[:12] = -100.0
    seen = LayersSeen(built.model)
    with seen, torch.no_grad():
        built.model(batch_of(built, rows))
    width = built.model.connector[0].out_features
    assert seen.told(result(), None, ALONE)["dead_units"]["connector"] == pytest.approx(12 / width, rel=1e-3)


@pytest.mark.slow
def test_looking_changes_no_number(tmp_path: Path) -> None:
    path = planted.rows(tmp_path / "rows")
    ends = []
    for name, every in (("looks", 1), ("does not", None)):
        stage = {"steps": 5, "micro_batch": 4, "gradient_checkpointing": True}
        run = train(planted.recipe(path, stage, log_layers=every, log_every=2), tmp_path / name)
        ends.append(load_file(run / "checkpoints" / "latest" / "model.safetensors"))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[1])
    lines = [json.loads(line) for line in (tmp_path / "looks" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "layers"] == [1, 2, 3, 4, 5]
    logged = [line for line in lines if line["event"] == "train"]
    for line in logged:
        layers = next(each for each in lines if each["event"] == "layers" and each["step"] == line["step"])
        for tower, norm in line["grad_norm"].items():
            own = [v for name, v in layers["grad_norm"].items() if name.startswith(tower)]
            assert math.hypot(*own) == pytest.approx(norm, rel=1e-3)
    windows = [line for line in lines if line["event"] == "steps"]
    assert [len(window["loss"]) for window in windows] == [2, 2, 1]
    for window, line in zip(windows, logged, strict=True):
        assert window["grad_norm"][-1] == pytest.approx(line["grad_norm_total"], rel=1e-4)
        assert sum(window["loss"]) / len(window["loss"]) == pytest.approx(line["loss"], rel=1e-2)


def test_a_window_is_told_once(built: Built, rows: list[Any]) -> None:
    record, batch = StepRecord(), batch_of(built, rows)
    record.add(result(3.0), [batch])
    assert record.told(ALONE) == {"loss": [0.5], "grad_norm": [3.0], "rows": rows_print(batch.examples)}
    assert record.told(ALONE) == {}
