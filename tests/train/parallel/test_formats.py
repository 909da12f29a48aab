"""Number formats over two real processes: weights sent in bf16, and weights that are bf16."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sightline.errors import UserError
from sightline.train.run import train
from tests.train.parallel.runs import losses, on_processes, recipe, table

pytestmark = [pytest.mark.ddp, pytest.mark.slow]
HALF = {"precision": "bf16", "numbers": {"weights": "bf16"}}


def test_two_processes_are_near_to_one_and_to_each_other(tmp_path: Path) -> None:
    rows = table(tmp_path)
    mixed = train(recipe(rows, precision="bf16"), tmp_path / "mixed")
    half = train(recipe(rows, **HALF), tmp_path / "half")
    runs = {
        tmp_path / "fp32-sent": recipe(rows, parallel="fsdp", precision="bf16"),
        tmp_path / "bf16-sent": recipe(rows, parallel={"kind": "fsdp", "gather": "bf16"}, precision="bf16"),
        tmp_path / "half-ddp": recipe(rows, parallel="ddp", **HALF),
        tmp_path / "half-fsdp": recipe(rows, parallel="fsdp", **HALF),
    }
    on_processes(2, runs)
    for name, near, digits in (
        ("fp32-sent", mixed, 2e-3),
        ("bf16-sent", mixed, 1e-2),
        ("half-ddp", half, 2e-2),
        ("half-fsdp", half, 2e-2),
    ):
        assert losses(tmp_path / name) == pytest.approx(losses(near), rel=digits), name
    assert losses(tmp_path / "bf16-sent") != losses(tmp_path / "fp32-sent")
    kept = load_file(tmp_path / "bf16-sent" / "checkpoints" / "latest" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values() if tensor.is_floating_point()} == {torch.float32}
    kept = load_file(tmp_path / "half-fsdp" / "checkpoints" / "latest" / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values() if tensor.is_floating_point()} == {torch.bfloat16}


def test_weights_are_not_sent_in_a_format_that_is_not_multiplied(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'gather' is read by fsdp"):
        recipe(table(tmp_path), parallel={"kind": "ddp", "gather": "bf16"})
