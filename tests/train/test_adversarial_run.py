"""Whole runs that learn from attacked pictures: stopped and resumed, watched and not, on one rank and on two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from sightline.recipe.read import validate
from sightline.train.interrupt import Interrupted
from sightline.train.run import resume, train
from tests.train.tiny import COLOURS, RECIPE

PGD = {"kind": "pgd", "epsilon": "8/255", "steps": 2, "share": 0.5}
TRADES = {"kind": "trades", "epsilon": "8/255", "steps": 2, "beta": 2.0}
CONVOLUTIONAL = {  # batch norm's statistics must not see an attack's passes
    "config": {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1],
               "layer_type": "basic"},
    "layer": -1,
    "image_size": 16,
}  # fmt: skip


def content(folder: Path, adversarial: dict[str, Any] | None, *, vision: bool = True, **changes: Any) -> dict[str, Any]:
    lines = []
    for colour in COLOURS:
        Image.new("RGB", (16, 16), colour).save(folder / f"{colour}.png")
        lines.append({"image": f"{colour}.png", "question": "what colour ?", "answer": colour})
        lines.append(
            {"image": f"{colour}.png", "question": "is it red ?", "answer": "yes" if colour == "red" else "no"}
        )
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made: dict[str, Any] = json.loads(json.dumps(RECIPE))
    made["model"]["attention"] = "eager"
    made["model"]["compose"]["vision"] = CONVOLUTIONAL
    made["model"]["compose"]["language"]["config"]["attention_dropout"] = 0.1  # so that a wrong random state shows
    made["data"] = {"train": {"reader": "table", "path": str(folder / "rows.jsonl")}}
    learn = {"vision": "all", "connector": "all", "language": "all"} if vision else {"connector": "all"}
    stage = made["stages"][0] | {"steps": 4, "micro_batch": 2, "learn": learn, "validate_every": 2, **changes}
    made["stages"] = [stage | ({"adversarial": adversarial} if adversarial else {})]
    made |= {"evaluate": {"validation": "train"}, "checkpoints": {"every": 2, "keep": 9}}
    return made


def trained(made: dict[str, Any], out: Path, stop_at: str | None = None) -> Path:
    torch.set_num_threads(1)

    def listen(event: dict[str, Any]) -> None:
        if stop_at and event["event"] == "checkpoint" and event["path"].endswith(stop_at):
            os.kill(os.getpid(), signal.SIGINT)

    recipe = validate(made, "tiny")
    if not stop_at:
        return train(recipe, out)
    with pytest.raises(Interrupted):
        train(recipe, out, listen)
    return resume(out, recipe)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "latest" / "model.safetensors")


def losses(run: Path, kind: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == kind]


def same(one: Path, other: Path) -> bool:
    mine, theirs = weights(one), weights(other)
    return all(torch.equal(mine[name], theirs[name]) for name in mine) and losses(one, "train") == losses(
        other, "train"
    )


def found(run: Path) -> set[str]:
    lines = [json.loads(line) for line in (run / "findings.jsonl").read_text().splitlines()]
    return {line["code"] for line in lines if line["kind"] == "finding"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param(PGD, marks=pytest.mark.slow), TRADES], ids=["pgd", "trades"])
def test_stopped_watched_and_on_the_whole_the_same(tmp_path: Path, kind: dict[str, Any]) -> None:
    made = content(tmp_path, kind)
    whole = trained(made, tmp_path / "whole")
    assert same(whole, trained(made, tmp_path / "stopped", stop_at="see-2"))
    assert same(whole, trained(made | {"guard": {"on": False}}, tmp_path / "unguarded"))
    plain = trained(content(tmp_path, None), tmp_path / "plain")
    assert not same(whole, plain)
    assert found(whole) == found(plain), "the guard sees no fault in an attack"
    verdicts = [json.loads(line) for line in (whole / "findings.jsonl").read_text().splitlines()]
    assert sum(verdict["kind"] == "passed" for verdict in verdicts) >= 10
    if kind is TRADES:
        last = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
        assert any({"next-token", "divergence"} <= line.get("terms", {}).keys() for line in last)


@pytest.mark.slow
def test_a_frozen_tower_stays_as_it_is(tmp_path: Path) -> None:
    made = content(tmp_path, PGD | {"share": 1.0}, vision=False)
    run = trained(made, tmp_path / "frozen")
    plain = trained(content(tmp_path, None, vision=False), tmp_path / "plain")
    ours, theirs = weights(run), weights(plain)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith("vision."))
    assert not all(torch.equal(ours[name], theirs[name]) for name in ours if name.startswith("connector."))
    assert not found(run) - found(plain)


@pytest.mark.slow
def test_micro_batches_change_nothing(tmp_path: Path) -> None:
    made = {"optimizer": {"clip": None}, "lr": 1e-3}
    kinds = {"adversarial": PGD | {"norm": "l2", "epsilon": 1.0, "share": 0.6}}  # smooth: no sign to flip
    one = trained(content(tmp_path, kinds["adversarial"], micro_batch=4, vision=False, **made), tmp_path / "one")
    two = trained(content(tmp_path, kinds["adversarial"], micro_batch=1, vision=False, **made), tmp_path / "two")
    assert losses(one, "train") == pytest.approx(losses(two, "train"), rel=1e-4)


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("kind", [PGD, TRADES], ids=["pgd", "trades"])
def test_two_ranks_give_the_losses_of_one(tmp_path: Path, kind: dict[str, Any]) -> None:
    smooth = kind | {"norm": "l2", "epsilon": 1.0}
    made = content(tmp_path, smooth, micro_batch=1, batch=4)
    made["model"]["compose"]["vision"] = RECIPE["model"]["compose"]["vision"]  # batch norm is of a rank's own batch
    made["model"]["compose"]["language"]["config"]["attention_dropout"] = 0.0  # ranks draw their own
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(made))
    alone = trained(made, tmp_path / "alone")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "sightline"]
    ended = subprocess.run(
        [*command, "train", str(file), "--out", str(tmp_path / "pair")], capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert losses(tmp_path / "pair", "train") == pytest.approx(losses(alone, "train"), rel=1e-4)
    assert not found(tmp_path / "pair")
