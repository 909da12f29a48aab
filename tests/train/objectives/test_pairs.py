"""A step over pairs is the step of one big batch: in however many micro-batches and ranks, and with dropout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.models.build import Built, build
from sightline.recipe.read import validate
from sightline.train.objectives import PairLosses
from sightline.train.objectives.embedded import image_ids
from sightline.train.objectives.pairs import COMPARED
from sightline.train.parallel.ranks import Ranks, joined_ranks
from sightline.train.precision import pick_precision
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.tiny import RECIPE

CPU = torch.device("cpu")
PAIRS = 8
TEXT = {
    "model_type": "clip_text_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "attention_dropout": 0.3,
}


def stage_and_model(rows: list[Row], objective: dict[str, float], bias: float | None = None) -> tuple[Any, Built]:
    """A stage over pairs, and its model in fp64, in training mode."""
    vision = RECIPE["model"]["compose"]["vision"]
    pair = {
        "vision": vision | {"config": vision["config"] | {"attention_dropout": 0.3}},
        "language": {"config": TEXT},
        "tokenizer": {"build": "words"},
        "embed": 8,
        "pool": "mean",
        "bias": bias,
    }
    stages = [RECIPE["stages"][0] | {"objective": objective, "batch": PAIRS}]
    recipe = validate(RECIPE | {"model": {"pair": pair}, "stages": stages}, where="tiny")
    built = build(recipe.model, seed=0, texts=[row.answer for row in rows], dtype=torch.float64)
    built.model.train()
    return recipe.stages[0], built


def micro_batches(built: Built, rows: list[Row], size: int) -> list[Any]:
    assert built.pairs is not None
    sequences = [pack([built.pairs.encode(rows[i % len(rows)])], "none", 64)[0] for i in range(PAIRS)]
    return [built.pairs.collate(sequences[start : start + size]) for start in range(0, PAIRS, size)]


def gradients(built: Built) -> dict[str, Tensor]:
    return {name: p.grad for name, p in built.model.named_parameters() if p.grad is not None}


def one_batch_by_hand(built: Built, stage: Any, batches: list[Any]) -> tuple[Tensor, dict[str, Tensor]]:
    """The mean loss over all micro-batches' embeddings, in one graph, written down plainly."""
    found = [built.model.represent(batch) for batch in batches]  # type: ignore[operator]
    image, text = torch.cat([one.image for one in found]), torch.cat([one.text for one in found])
    ids = torch.cat([image_ids(batch) for batch in batches])
    scale, bias = built.model.scale_and_bias()  # type: ignore[operator]
    logits = scale * image @ text.T
    same = (ids[:, None] == ids).double()
    if "itc" in stage.objective:
        target = same / same.sum(1, keepdim=True)
        loss = -((target * logits.log_softmax(1)).sum() + (target * logits.log_softmax(0)).sum()) / 2
    else:
        loss = -torch.nn.functional.logsigmoid((2 * same - 1) * (logits + bias)).sum()
    loss = loss / len(text)
    loss.backward()
    return loss.detach(), gradients(built)


@pytest.mark.parametrize("objective", ["itc", "sigmoid"])
@pytest.mark.parametrize("size", [8, 4, 3, 1])
def test_micro_batches_give_the_gradient_of_one_batch(rows: list[Row], objective: str, size: int) -> None:
    bias = -2.0 if objective == "sigmoid" else None
    stage, built = stage_and_model(rows, {objective: 1.0}, bias)
    batches = micro_batches(built, rows, size)
    torch.manual_seed(7)
    expected, wanted = one_batch_by_hand(built, stage, batches)
    built.model.zero_grad()

    losses = PairLosses(stage)
    torch.manual_seed(7)  # the same dropout
    counts = losses.counts(batches)
    factors = {name: 1 / count for name, count in counts.items()}
    sums = losses.backward(built.model, batches, factors, pick_precision("fp32", CPU), Ranks(0, 1, CPU))

    assert counts == {objective: PAIRS}
    assert float(sums[objective]) / PAIRS == pytest.approx(float(expected), abs=1e-12)
    found = gradients(built)
    assert found.keys() == wanted.keys()
    assert "connector.temperature.log_scale" in found
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, atol=1e-12, rtol=1e-9, msg=name)


def test_dropout_makes_a_difference_here(rows: list[Row]) -> None:
    """The twin of the test above: with other random numbers the gradients differ, so equality there says something."""
    stage, built = stage_and_model(rows, {"itc": 1.0})
    batches = micro_batches(built, rows, 4)
    found = []
    for seed in (7, 8):
        torch.manual_seed(seed)
        built.model.zero_grad()
        found.append({n: g.clone() for n, g in one_batch_by_hand(built, stage, batches)[1].items()})
    assert any(not torch.allclose(found[0][name], found[1][name]) for name in found[0])


def test_captions_of_one_image_are_no_negatives(rows: list[Row]) -> None:
    """Rows 0 and 1 show one image: exchanging their captions leaves the loss as it is."""
    stage, built = stage_and_model(rows, {"itc": 1.0})
    built.model.eval()
    batch = micro_batches(built, rows, PAIRS)[0]
    assert int(image_ids(batch)[0]) == int(image_ids(batch)[1]) != int(image_ids(batch)[2])
    loss = PairLosses(stage).value(built.model, batch)["itc"][0].detach()
    order = [1, 0, *range(2, PAIRS)]
    batch.input_ids, batch.attention_mask = batch.input_ids[order], batch.attention_mask[order]
    assert float(PairLosses(stage).value(built.model, batch)["itc"][0].detach()) == pytest.approx(
        float(loss), abs=1e-12
    )


def work(rank: int, port: int, rows: list[Row], out: str) -> None:
    import os

    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        for objective in COMPARED:
            stage, built = stage_and_model(rows, {objective: 1.0}, -2.0)
            built.model.eval()
            own = micro_batches(built, rows, 2)[rank::2]
            factors = {objective: ranks.world / PAIRS}
            sums = PairLosses(stage).backward(built.model, own, factors, pick_precision("fp32", CPU), ranks)
            ranks.average_gradients([p for p in built.model.parameters() if p.requires_grad])
            (total,) = ranks.sum([float(sums[objective])])
            torch.save((total / PAIRS, gradients(built)), f"{out}/{objective}-{rank}.pt")


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_give_the_gradient_of_one(rows: list[Row], tmp_path: Path) -> None:
    port = free_port()
    spawn(work, args=(port, rows, str(tmp_path)), nprocs=2)
    for objective in COMPARED:
        stage, built = stage_and_model(rows, {objective: 1.0}, -2.0)
        built.model.eval()
        expected, wanted = one_batch_by_hand(built, stage, micro_batches(built, rows, PAIRS))
        for rank in range(2):
            loss, grads = torch.load(tmp_path / f"{objective}-{rank}.pt")
            assert loss == pytest.approx(float(expected), abs=1e-12)
            for name, grad in wanted.items():
                torch.testing.assert_close(grads[name], grad, atol=1e-12, rtol=1e-9, msg=name)


def test_equal_texts_are_no_negatives(rows: list[Row]) -> None:
    """Two images that are both called "red": each is right for the other."""
    stage, built = stage_and_model(rows, {"itc": 1.0})
    built.model.eval()
    batch = micro_batches(built, rows[::2], PAIRS)[0]
    batch.input_ids[1], batch.attention_mask[1] = batch.input_ids[0], batch.attention_mask[0]
    pairs = built.model.represent(batch)  # type: ignore[operator]
    scale = built.model.scale_and_bias()[0]  # type: ignore[operator]
    logits = scale * pairs.image @ pairs.text.T
    joined = torch.tensor([0, 0, 2, 3, 4, 5, 0, 0])  # rows 6 and 7 show the images of rows 0 and 1 again
    same = (joined[:, None] == joined).double()
    target = same / same.sum(1, keepdim=True)
    expected = -((target * logits.log_softmax(1)).sum() + (target * logits.log_softmax(0)).sum()) / 2
    found = PairLosses(stage).value(built.model, batch)["itc"][0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_one_text_for_all_is_no_task(rows: list[Row]) -> None:
    """Every pair is a positive of every other: the loss is finite, and matching has nothing to count."""
    stage, built = stage_and_model(rows, {"itc": 1.0})
    batch = micro_batches(built, rows[::2], PAIRS)[0]
    batch.input_ids[:], batch.attention_mask[:] = batch.input_ids[0].clone(), batch.attention_mask[0].clone()
    matched = stage.model_copy(update={"objective": {"itc": 1.0, "itm": 1.0}})
    assert PairLosses(matched).counts([batch]) == {"itc": PAIRS, "itm": 0.0}
    assert bool(PairLosses(stage).value(built.model, batch)["itc"][0].isfinite())


def test_equal_texts_are_right_for_each_other_by_sigmoid(rows: list[Row]) -> None:
    stage, built = stage_and_model(rows, {"sigmoid": 1.0}, -2.0)
    built.model.eval()
    batch = micro_batches(built, rows[::2], PAIRS)[0]
    batch.input_ids[1], batch.attention_mask[1] = batch.input_ids[0], batch.attention_mask[0]
    pairs = built.model.represent(batch)  # type: ignore[operator]
    scale, bias = built.model.scale_and_bias()  # type: ignore[operator]
    joined = torch.tensor([0, 0, 2, 3, 4, 5, 0, 0])
    signs = 2 * (joined[:, None] == joined).double() - 1
    expected = -torch.nn.functional.logsigmoid(signs * (scale * pairs.image @ pairs.text.T + bias)).sum()
    found = PairLosses(stage).value(built.model, batch)["sigmoid"][0]
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)
