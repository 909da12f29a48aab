"""The step's law: its gradient is that of the mean over all supervised tokens, however they are dealt out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sightline.data.batch import IGNORE
from sightline.data.pack import pack
from sightline.errors import UserError
from sightline.train.checkpoint import WHOLE
from sightline.train.freeze import freeze
from sightline.train.groups import build_optimizer, rates, set_rates
from sightline.train.precision import pick_precision
from sightline.train.step import train_step
from tests.train.tiny import fresh, stage

CPU = torch.device("cpu")


def gradients(rows: list[Any], split: list[int], mode: Any = "none") -> tuple[dict[str, torch.Tensor], float]:
    """Gradients and mean loss of one step over `rows`, dealt into micro-batches of `split` sequences."""
    built = fresh(rows)
    spec = stage().stages[0]
    freeze(built.model, spec)
    sequences = pack([built.encoder.encode(row) for row in rows], mode, 512)
    batches, start = [], 0
    for size in split:
        batches.append(built.encoder.collate(sequences[start : start + size]))
        start += size
    assert start == len(sequences)
    optimizer = torch.optim.SGD(built.model.parameters(), lr=0.0)
    result = train_step(built.model, batches, optimizer, pick_precision("fp32", CPU), WHOLE, None)
    return {n: p.grad for n, p in built.model.named_parameters() if p.grad is not None}, float(
        result.loss_sum
    ) / result.tokens


@pytest.mark.parametrize("split", [[6, 6], [1, 11], [2, 3, 7]])
def test_micro_batches_do_not_change_the_gradient(rows: list[Any], split: list[int]) -> None:
    whole, loss = gradients(rows, [12])
    parts, loss_parts = gradients(rows, split)
    assert loss_parts == pytest.approx(loss, rel=1e-6)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-4, atol=1e-7, msg=name)


def test_packed_rows_have_the_loss_and_gradient_of_separate_ones(rows: list[Any]) -> None:
    separate, loss = gradients(rows, [12])
    for mode, count in (("image", 6), ("length", 1)):
        packed, loss_packed = gradients(rows, [count], mode)
        assert loss_packed == pytest.approx(loss, rel=1e-5)
        for name in separate:
            torch.testing.assert_close(packed[name], separate[name], rtol=1e-4, atol=1e-5, msg=f"{mode} {name}")


def test_equals_a_plain_loop_over_full_logits(rows: list[Any]) -> None:
    """The loss from logits at supervised positions is cross-entropy over full logits with shifted labels."""
    _, loss = gradients(rows, [12])
    built = fresh(rows)
    total, count = 0.0, 0
    for row in rows:
        batch = built.encoder.collate(pack([built.encoder.encode(row)], "none", 512))
        full = batch.labels.clone()
        batch.labels = batch.input_ids.clone()  # ask for the logits of every position
        logits, _ = built.model(batch)
        targets = full[0, 1:]
        total += float(F.cross_entropy(logits[: len(targets)].detach(), targets, reduction="sum", ignore_index=IGNORE))
        count += int((targets != IGNORE).sum())
    assert total / count == pytest.approx(loss, rel=1e-5)


def test_a_step_without_supervised_tokens_is_an_error(rows: list[Any]) -> None:
    built = fresh(rows)
    batch = built.encoder.collate(pack([built.encoder.encode(rows[0])], "none", 512))
    batch.labels[:] = IGNORE
    optimizer = torch.optim.SGD(built.model.parameters(), lr=0.0)
    with pytest.raises(UserError, match="no supervised token"):
        train_step(built.model, [batch], optimizer, pick_precision("fp32", CPU), WHOLE, None)


def test_groups_have_their_towers_rates_and_no_decay_on_vectors(rows: list[Any]) -> None:
    built = fresh(rows)
    spec = stage(lr={"vision": 1e-4, "connector": 1e-3, "language": 2e-5}, optimizer={"weight_decay": 0.1}).stages[0]
    freeze(built.model, spec)
    optimizer = build_optimizer(built.model, spec)
    held = [p for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len({id(p) for p in held}) == len(list(built.model.parameters()))
    for group in optimizer.param_groups:
        assert group["weight_decay"] == (0.1 if group["params"][0].ndim > 1 else 0.0)
        assert all((p.ndim > 1) == (group["params"][0].ndim > 1) for p in group["params"])
    set_rates(optimizer, 0.5)
    assert rates(optimizer) == {"vision": 5e-5, "connector": 5e-4, "language": 1e-5}


def test_clipping_bounds_the_gradient(rows: list[Any]) -> None:
    built = fresh(rows)
    freeze(built.model, stage().stages[0])
    batch = built.encoder.collate(pack([built.encoder.encode(row) for row in rows], "none", 512))
    optimizer = torch.optim.SGD(built.model.parameters(), lr=0.0)
    result = train_step(built.model, [batch], optimizer, pick_precision("fp32", CPU), WHOLE, 0.01)
    clipped = torch.stack([p.grad.norm() for p in built.model.parameters() if p.grad is not None]).norm()
    assert float(result.grad_norm) > 0.01
    assert float(clipped) == pytest.approx(0.01, rel=1e-3)
