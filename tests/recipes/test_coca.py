"""The recipe coca: what the paper says, and as many parameters as its table counts."""

from __future__ import annotations

from sightline.models.build import build_meta
from sightline.recipe import load
from sightline.recipe.schema import TOWERS
from sightline.train.freeze import freeze

WORDS = 64_000  # of the paper's tokenizer; the recipe's has 49,408


def test_towers_count_what_the_paper_says() -> None:
    """Table 1: 86M for the image encoder, 297M for the text decoders with their embeddings and the output matrix."""
    recipe = load("coca")
    assert recipe.model.pair is not None and recipe.model.pair.language.config is not None
    config = recipe.model.pair.language.config | {"vocab_size": WORDS}
    language = recipe.model.pair.language.model_copy(update={"config": config})
    pair = recipe.model.pair.model_copy(update={"language": language})
    model = build_meta(recipe.model.model_copy(update={"pair": pair}))
    counts = {tower: sum(p.numel() for _, p in model.tower_parameters(tower)) for tower in TOWERS}
    decoder = sum(p.numel() for name, p in model.tower_parameters("connector") if ".decoder." in name)
    assert round(counts["vision"] / 1e6) == 86
    assert round((counts["language"] + decoder + WORDS * 768) / 1e6) == 297
    plans = freeze(model, recipe.stages[0])
    assert {tower: plan.trainable for tower, plan in plans.items()} == counts, "all of it learns"


def test_figures_are_the_papers() -> None:
    recipe = load("coca")
    pair, (stage,) = recipe.model.pair, recipe.stages
    assert pair is not None and pair.caption is not None
    assert (pair.temperature, pair.caption.blocks, pair.caption.queries) == (0.07, 12, 256)
    assert stage.objective == {"itc": 1, "itg": 2}
    assert (stage.lr, stage.steps, stage.batch) == (8e-4, 500_000, 65_536)
    assert (stage.schedule.kind, stage.schedule.warmup) == ("linear", 0.02)
    assert (stage.optimizer.betas, stage.optimizer.weight_decay) == ((0.9, 0.999), 0.01)
    small = load("coca-small")
    assert small.stages[0].objective == stage.objective
