"""The recipe albef: what the paper says, and as many parameters as it counts."""

from __future__ import annotations

from functools import cache

import pytest

from sightline.models.build import build_meta
from sightline.models.fused import FusedPairVLM
from sightline.recipe import load
from sightline.recipe.schema import TOWERS
from sightline.train.freeze import freeze
from sightline.train.objectives import objective_of

BERT_BLOCK = 7_087_872  # of BERT-base: attention, feed-forward and two norms
CROSS_ATTENTION = 4 * (768 * 768 + 768) + 2 * 768
EMBEDDINGS = (30_522 + 512 + 2 + 2) * 768  # words, places, segments and a norm
WORD_HEAD = 768 * 768 + 768 + 2 * 768 + 30_522
COUNTS = {
    "vision": 85_798_656,  # ViT-B/16 without its classifier
    "connector": 6 * (BERT_BLOCK + CROSS_ATTENTION) + WORD_HEAD + 2 * 768 * 256 + (2 * 768 + 2) + 1,
    "language": 6 * BERT_BLOCK + EMBEDDINGS,
}


@cache
def meta() -> FusedPairVLM:
    model = build_meta(load("albef").model)
    assert isinstance(model, FusedPairVLM)
    return model


def test_towers_count_what_the_paper_says() -> None:
    model = meta()
    assert {t: sum(p.numel() for _, p in model.tower_parameters(t)) for t in TOWERS} == COUNTS
    text = COUNTS["language"] + 6 * (BERT_BLOCK + CROSS_ATTENTION) + WORD_HEAD
    assert round(text / 1e6, 1) == 123.7 and round(COUNTS["vision"] / 1e6, 1) == 85.8, "section 3.5"


def test_the_slow_copy_is_as_large_and_never_learns() -> None:
    model, stage = meta(), load("albef").stages[0]
    plans = freeze(model, stage)
    assert {tower: plan.trainable for tower, plan in plans.items()} == COUNTS
    assert model.teacher is not None and model.queue is not None
    assert sum(p.numel() for p in model.teacher.parameters()) == sum(COUNTS.values())
    assert not any(p.requires_grad for p in model.teacher.parameters())
    assert model.queue.text.shape == (65_536, 256)


def test_figures_are_the_papers() -> None:
    recipe = load("albef")
    pair, (stage,) = recipe.model.pair, recipe.stages
    assert pair is not None and pair.fusion is not None
    assert (pair.embed, pair.temperature, pair.fusion.blocks, pair.fusion.momentum) == (256, 0.07, 6, 0.995)
    assert stage.objective == {"itc": 1, "itm": 1, "mlm": 1}
    assert (stage.lr, stage.epochs, stage.batch, stage.schedule.warmup) == (1e-4, 30, 512, 1000)
    assert stage.lr * stage.schedule.floor == pytest.approx(1e-5)  # type: ignore[operator]
    assert stage.optimizer.weight_decay == 0.02
    objective, steps = objective_of(stage), 30 * 7_813  # 4M pairs in batches of 512
    for step, share in ((0, 0.0), (7_813 // 2, 0.2), (7_813, 0.4), (steps - 1, 0.4)):
        objective.before_step(step, steps)
        assert objective._alpha == pytest.approx(share, abs=1e-3)  # type: ignore[attr-defined]
