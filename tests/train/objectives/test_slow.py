"""A model with a slow copy and a queue: the step's gradient is that of one graph written down by hand, in fp64."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.models.build import Built, build
from sightline.models.fused import FusedPairVLM
from sightline.recipe.read import validate
from sightline.train.objectives import PairLosses
from sightline.train.objectives.embedded import image_ids, text_ids
from sightline.train.parallel.ranks import Ranks, joined_ranks
from sightline.train.precision import pick_precision
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.objectives.test_pairs import CPU, PAIRS, gradients, micro_batches
from tests.train.tiny import RECIPE

ALPHA = 0.4
BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.3,
}


def fused_stage_and_model(
    rows: list[Row], objective: dict[str, float], fusion: dict[str, Any] | None = None, **pairs: Any
) -> tuple[Any, Built]:
    """A stage over pairs, and a model whose texts look at images, in fp64 and training mode."""
    recipe = validate(fused_recipe(objective, fusion, **pairs), where="tiny")
    built = build(recipe.model, seed=0, texts=[row.answer for row in rows], dtype=torch.float64)
    built.model.train()
    return recipe.stages[0], built


def fused_recipe(objective: dict[str, float], fusion: dict[str, Any] | None = None, **pairs: Any) -> dict[str, Any]:
    pair = {
        "vision": RECIPE["model"]["compose"]["vision"],
        "language": {"config": BERT, "pool": "first"},
        "tokenizer": {"build": "words"},
        "embed": 8,
        "pool": "mean",
        "fusion": fusion or {"blocks": 1, "momentum": 0.9, "queue": 5},
    }
    stages = [RECIPE["stages"][0] | {"objective": objective, "batch": PAIRS, "pairs": pairs}]
    return RECIPE | {"model": {"pair": pair}, "stages": stages}


def with_a_past(built: Built, rows: list[Row]) -> FusedPairVLM:
    """The model, its slow copy somewhere else than itself, three pairs in its queue, one of them of an own image."""
    model = built.model
    assert isinstance(model, FusedPairVLM) and model.teacher is not None and model.queue is not None
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    batch = micro_batches(built, rows, PAIRS)[0]
    names = torch.stack([image_ids(batch), text_ids(batch)], 1)[:3] + torch.tensor([[0], [5], [9]])
    unit = torch.nn.functional.normalize(torch.randn(2, 3, 8, dtype=torch.float64), dim=-1)
    model.queue.push(unit[0], unit[1], names)
    return model


def by_hand(model: FusedPairVLM, losses: PairLosses, batches: list[Any]) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Means of itc and mlm over all micro-batches, and gradients of their sum, in one graph, written down plainly."""
    assert model.teacher is not None and model.queue is not None
    found, slow = [model.represent(b) for b in batches], [model.teacher.represent(b) for b in batches]
    image, text = torch.cat([f.image for f in found]), torch.cat([f.text for f in found])
    held = len(model.queue)
    columns = {
        "image": torch.cat([*[s.image for s in slow], model.queue.image[:held]]).detach(),
        "text": torch.cat([*[s.text for s in slow], model.queue.text[:held]]).detach(),
    }
    ids = torch.cat([*[image_ids(b) for b in batches], model.queue.image_ids[:held, 0]])
    scale = model.scale_and_bias()[0]
    same = (ids[: len(text), None] == ids).double()
    hard = same / same.sum(1, keepdim=True)
    itc = torch.zeros((), dtype=torch.float64)
    for rows_, slow_rows, others in (
        (image, columns["image"][: len(text)], columns["text"]),
        (text, columns["text"][: len(text)], columns["image"]),
    ):
        soft = (scale.detach() * slow_rows @ others.T).softmax(1)
        target = (1 - ALPHA) * hard + ALPHA * soft
        itc = itc - (target * (scale * rows_ @ others.T).log_softmax(1)).sum() / 2
    mlm, words = torch.zeros((), dtype=torch.float64), 0
    for batch, f, s in zip(batches, found, slow, strict=True):
        masked = losses._masked(batch, 2)
        logits = model.unmask(f.seen, masked.input_ids, batch, masked.where)
        opinion = model.teacher.unmask(s.seen, masked.input_ids, batch, masked.where).detach().softmax(1)
        target = (1 - ALPHA) * torch.nn.functional.one_hot(masked.targets, logits.shape[1]) + ALPHA * opinion
        mlm, words = mlm - (target * logits.log_softmax(1)).sum(), words + len(masked.targets)
    means = {"itc": itc / len(text), "mlm": mlm / words}
    (means["itc"] + 2 * means["mlm"]).backward()
    return {name: float(mean.detach()) for name, mean in means.items()}, gradients_of(model)


def gradients_of(model: FusedPairVLM) -> dict[str, Tensor]:
    assert all(p.grad is None for p in model.teacher.parameters()), "no gradient reaches the slow copy"  # type: ignore[union-attr]
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_step(
    model: FusedPairVLM, losses: PairLosses, batches: list[Any], ranks: Ranks, total: dict[str, float]
) -> dict[str, Tensor]:
    factors = {name: losses.weights[name] * ranks.world / count for name, count in total.items()}
    return losses.backward(model, batches, factors, pick_precision("fp32", CPU), ranks)


OBJECTIVE = {"itc": 1.0, "mlm": 2.0}


def close(found: Tensor, wanted: Tensor, name: str) -> None:
    """Masked words are scored in fp32, as all of this project's next-token losses are."""
    torch.testing.assert_close(found, wanted, atol=2e-7, rtol=2e-6, msg=name)


@pytest.mark.parametrize("size", [8, 3])
def test_the_gradient_is_that_of_one_graph(rows: list[Row], size: int) -> None:
    stage, built = fused_stage_and_model(rows, OBJECTIVE, distil=ALPHA)
    model, losses = with_a_past(built, rows), PairLosses(stage)
    model.eval()
    losses.check(model)
    losses.before_step(2, 10)
    batches = micro_batches(built, rows, size)
    expected, wanted = by_hand(model, losses, batches)
    model.zero_grad()
    counts = losses.counts(batches)
    sums = one_step(model, losses, batches, Ranks(0, 1, CPU), counts)
    for name, mean in expected.items():
        assert float(sums[name]) / counts[name] == pytest.approx(mean, rel=1e-6)
    found = gradients_of(model)
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        close(found[name], grad, name)


def test_the_comparison_alone_is_exact_and_dropout_is_replayed(rows: list[Row]) -> None:
    """itc is in fp64 throughout: micro-batches with dropout give the gradient of one batch to 1e-12."""
    stage, built = fused_stage_and_model(rows, {"itc": 1.0}, distil=ALPHA)
    model, losses, found = with_a_past(built, rows), PairLosses(stage), []
    losses.check(model)
    losses.before_step(2, 10)
    batches = micro_batches(built, rows, 4)
    for parts in (batches, batches):
        torch.manual_seed(7)
        model.zero_grad()
        if not found:  # one graph by hand, over the same dropout
            held = [model.represent(batch) for batch in parts]
            slow = [model.teacher.represent(batch) for batch in parts]  # type: ignore[union-attr]
            loss = itc_by_hand(model, held, slow, parts)
            loss.backward()
        else:
            one_step(model, losses, parts, Ranks(0, 1, CPU), {"itc": PAIRS})
        found.append(gradients_of(model))
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        torch.testing.assert_close(found[1][name], grad, atol=1e-12, rtol=1e-9, msg=name)


def itc_by_hand(model: FusedPairVLM, held: list[Any], slow: list[Any], batches: list[Any]) -> Tensor:
    queue, scale = model.queue, model.scale_and_bias()[0]
    assert queue is not None
    count = len(queue)
    ids = torch.cat([*[image_ids(b) for b in batches], queue.image_ids[:count, 0]])
    same = (ids[:PAIRS, None] == ids).double()
    loss = torch.zeros((), dtype=torch.float64)
    for own, other in (("image", "text"), ("text", "image")):
        rows_ = torch.cat([getattr(one, own) for one in held])
        columns = torch.cat([*[getattr(one, other) for one in slow], getattr(queue, other)[:count]]).detach()
        teacher = torch.cat([getattr(one, own) for one in slow]).detach()
        target = (1 - ALPHA) * same / same.sum(1, keepdim=True)
        target = target + ALPHA * (scale.detach() * teacher @ columns.T).softmax(1)
        loss = loss - (target * (scale * rows_ @ columns.T).log_softmax(1)).sum() / (2 * PAIRS)
    return loss


def test_after_the_step_the_copy_follows_and_the_queue_moves_on(rows: list[Row]) -> None:
    stage, built = fused_stage_and_model(rows, {"itc": 1.0}, {"blocks": 1, "momentum": 0.9, "queue": 10})
    model, losses = built.model, PairLosses(stage)
    assert isinstance(model, FusedPairVLM) and model.teacher is not None and model.queue is not None
    losses.check(model)
    batches = micro_batches(built, rows, 3)
    slow = torch.cat([model.teacher.represent(batch).image for batch in batches])
    one_step(model, losses, batches, Ranks(0, 1, CPU), {"itc": PAIRS})
    assert len(model.queue) == 0, "the queue is filled after the step"
    before = model.teacher.connector.text_projection.weight.clone()
    with torch.no_grad():
        model.connector.text_projection.weight += 1
    losses.after_step(model)
    torch.testing.assert_close(model.queue.image[:PAIRS], slow)
    assert len(model.queue) == PAIRS
    torch.testing.assert_close(model.teacher.connector.text_projection.weight, before + 0.1)


def test_the_copys_share_rises_over_the_first_steps(rows: list[Row]) -> None:
    stage, _ = fused_stage_and_model(rows, {"itc": 1.0}, distil=ALPHA, distil_ramp=0.5)
    losses, shares = PairLosses(stage), []
    for step in (0, 1, 4, 9):
        losses.before_step(step, 8)
        shares.append(losses._alpha)
    assert shares == pytest.approx([0, 0.1, 0.4, 0.4])


def test_what_nothing_would_act_on_is_refused(rows: list[Row]) -> None:
    bare = {"blocks": 1}
    for objective, fusion, pairs, message in (
        ({"itc": 1.0}, bare, {"distil": 0.4}, "distils, and 'model.pair.fusion.momentum' is not given"),
        ({"sigmoid": 1.0, "mlm": 1.0}, None, {}, "not in 'sigmoid'"),
        ({"mlm": 1.0}, None, {}, "negatives for 'itc', which no stage"),
        ({"itc": 1.0}, bare | {"queue": 4}, {}, "give 'momentum' too"),
    ):
        with pytest.raises(UserError, match=message):
            fused_stage_and_model(rows, objective, fusion, **pairs)
    with pytest.raises(UserError, match="follows weights and no adapters"):
        validate(fused_recipe({"itc": 1.0}) | {"model": fused_recipe({"itc": 1.0})["model"] | {"lora": {}}}, "tiny")


@pytest.mark.parametrize(
    ("objective", "pairs", "message"),
    [
        ({"itc": 1.0}, {"mask": 0.3}, "'pairs.mask' is read by 'mlm' alone"),
        ({"itc": 1.0}, {"caption_smoothing": 0.1}, "'pairs.caption_smoothing' is read by 'itg' alone"),
        ({"sigmoid": 1.0}, {"smoothing": 0.1}, "'pairs.smoothing' is read by 'itc' alone"),
        ({"sigmoid": 1.0}, {"distil": 0.1}, "neither is in 'objective'"),
        ({"itc": 1.0}, {"distil_ramp": 0.4}, "leads to 'distil', which is 0"),
        ("next-token", {"distil": 0.4}, "'objective' is next-token"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(objective: Any, pairs: dict[str, Any], message: str) -> None:
    stages = [RECIPE["stages"][0] | {"objective": objective, "batch": PAIRS, "pairs": pairs}]
    with pytest.raises(UserError, match=message):
        validate(RECIPE | {"stages": stages}, where="tiny")


def work(rank: int, port: int, rows: list[Row], out: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        stage, built = fused_stage_and_model(rows, OBJECTIVE, distil=ALPHA)
        model, losses = with_a_past(built, rows), PairLosses(stage)
        model.eval()
        losses.check(model)
        losses.before_step(2, 10)
        own = micro_batches(built, rows, 2)[rank::2]
        counts = losses.counts(own)
        total = dict(zip(counts, ranks.sum(list(counts.values())), strict=True))
        one_step(model, losses, own, ranks, total)
        ranks.average_gradients([p for p in model.parameters() if p.requires_grad])
        grads = gradients(built)
        losses.after_step(model)
        torch.save((grads, model.queue.state_dict()), f"{out}/{rank}.pt")  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_give_the_gradient_of_one_and_hold_one_queue(rows: list[Row], tmp_path: Path) -> None:
    stage, built = fused_stage_and_model(rows, OBJECTIVE, distil=ALPHA)
    model, losses = with_a_past(built, rows), PairLosses(stage)
    model.eval()
    losses.check(model)
    losses.before_step(2, 10)
    _, wanted = by_hand(model, losses, micro_batches(built, rows, PAIRS))
    port = free_port()
    spawn(work, args=(port, rows, str(tmp_path)), nprocs=2)
    (first, queue), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name, grad in wanted.items():
        close(first[name], grad, name)
        torch.testing.assert_close(first[name], second[name], atol=0, rtol=0)
    for name, held in queue.items():
        assert torch.equal(held, other[name])
    assert int(queue["pushed"]) == 3 + PAIRS
