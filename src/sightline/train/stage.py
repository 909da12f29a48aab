"""A stage made ready: what learns, its optimizer, its data, its averages. Everything the loop needs, and no more."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from sightline.data.augment import Augmenter
from sightline.data.dataset import Rows
from sightline.data.row import Row, Skipped
from sightline.errors import UserError
from sightline.models.build import Built
from sightline.models.layers.dropout import Dropouts
from sightline.models.vlm import VLM
from sightline.recipe.schema import Evaluate, Recipe, Stage, Tower
from sightline.train.cache import FeatureCache, encode_all
from sightline.train.checkpoint import Learner
from sightline.train.feed import MicroBatches, Plan, Supply, plan_steps, supply
from sightline.train.freeze import TowerPlan, freeze
from sightline.train.objectives import Objective, objective_of
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import Precision
from sightline.train.streamed import Shards, StreamedBatches

SEED_STRIDE = 1_000_003  # a prime far above any seed a person picks, so that stages never share a shuffle

Tell = Callable[[str, int], Callable[[int], None]]  # (what, of how many) -> a function told of progress


@dataclass(frozen=True, slots=True)
class ReadyStage:
    """A stage ready to run.

    Attributes:
        home: the run's model. `built` holds the one that is trained: the same, or one that the layout spread out.
        module: the model as the step calls it (wrapped where there are several ranks).
        dropouts: the connector's, whose rates the loop sets before each step.
        batches: micro-batch by number. validation: held-out sequences, where the recipe names them.
        skipped: rows left out, each with its reason.
        marking: how answers to them are marked, where early stopping goes by accuracy.
    """

    index: int
    spec: Stage
    plan: Plan
    towers: dict[Tower, TowerPlan]
    home: VLM
    built: Built
    module: nn.Module
    objective: Objective
    learner: Learner
    dropouts: Dropouts
    batches: MicroBatches | StreamedBatches
    validation: Supply | None
    skipped: list[Skipped]
    layout: Layout
    marking: Evaluate

    @property
    def ranks(self) -> Ranks:
        """Those that are fed different rows."""
        return self.layout.ranks

    def at_home(self) -> Learner:
        """What is saved when the stage has ended and its weights are home: the next stage has another optimizer."""
        if self.built.model is self.home:
            return self.learner
        whole = Layout(self.layout.settings, self.ranks)
        return replace(self.learner, model=self.home, ema=None, layout=whole)


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_ready(
    recipe: Recipe,
    index: int,
    built: Built,
    rows: dict[str, Rows],
    precision: Precision,
    layout: Layout,
    tell: Tell,
    shards: Mapping[str, Shards] | None = None,
) -> ReadyStage:
    """Freeze, build the optimizer, encode and pack the data, fill the feature cache.

    Args:
        layout: how the model is to lie on the ranks; what it puts in the model's place is in the stage's `built`.
        shards: the data sets that stages stream; they are not looked for in `rows`.

    Raises:
        UserError: what is wrong with the stage's plan or its data.
    """
    spec, model, ranks = recipe.stages[index], built.model, layout.ranks
    seed = recipe.seed + SEED_STRIDE * index
    towers, objective = freeze(model, spec), objective_of(spec, seed, built.encoder_for(spec))
    objective.check(model)
    layout.check(model, spec, objective, precision)
    streams = {name: shards[name] for name in spec.data if name in shards} if shards else {}
    supplies, skipped = _supplies(spec, built, {name: rows[name] for name in spec.data if name not in streams}, tell)
    sizes = {name: len(supplies[name] if name in supplies else streams[name]) for name in spec.data}
    plan = plan_steps(spec, sizes, ranks.world)
    at_hand = [row for each in supplies.values() for row in each.rows]
    features = _features(spec, built, at_hand, precision, layout, tell) if spec.cache_features else None
    augment = Augmenter(spec.augment, seed, at_hand) if spec.augment else None
    batches: MicroBatches | StreamedBatches = (
        StreamedBatches(streams, supplies, spec, plan, seed, ranks, built.encoder_for(spec), augment)
        if streams
        else MicroBatches(supplies, spec, plan, seed, ranks, features, augment)
    )
    placed = layout.place(model, spec)
    return ReadyStage(
        index=index,
        spec=spec,
        plan=plan,
        towers=towers,
        home=model,
        built=replace(built, model=placed),
        module=layout.wrap(placed, objective),
        objective=objective,
        dropouts=_dropouts(placed, spec),
        learner=_learner(layout, placed, spec, precision, objective),
        batches=batches,
        validation=_validation(recipe, spec, built, rows, tell),
        skipped=skipped,
        layout=layout,
        marking=recipe.evaluate,
    )


def _learner(layout: Layout, model: VLM, spec: Stage, precision: Precision, objective: Objective) -> Learner:
    """The placed model, and what belongs to it."""
    model.set_gradient_checkpointing(spec.gradient_checkpointing)
    average = layout.averages(model, spec.ema) if spec.ema else None
    return Learner(model, layout.optimizer(model, spec), precision, average, objective.balance, layout)


def _features(
    spec: Stage, built: Built, rows: list[Row], precision: Precision, layout: Layout, tell: Tell
) -> FeatureCache:
    """What the frozen vision tower says of every image of `rows`."""
    images = len({image.key for row in rows for image in row.images})
    built.model.eval()
    with layout.at_work(built.model):
        return encode_all(built.model, built.encoder_for(spec), rows, precision, tell("encoding images", images))


def _dropouts(model: VLM, spec: Stage) -> Dropouts:
    found = Dropouts(nn.ModuleList(module for _, module in model.tower_modules("connector")))
    if spec.dropout_warmup and not found:
        where = f"stages.{spec.name}.dropout_warmup"
        raise UserError("this connector drops nothing", where=where, fix="leave it out, or set connector.layers")
    return found


def _supplies(spec: Stage, built: Built, rows: dict[str, Rows], tell: Tell) -> tuple[dict[str, Supply], list[Skipped]]:
    supplies, skipped = {}, []
    for name, found in rows.items():
        supplies[name], left_out = supply(
            found, spec, built.encoder_for(spec), tell(f"reading {name}", len(found.rows))
        )
        skipped += left_out
    return supplies, skipped


def _validation(recipe: Recipe, spec: Stage, built: Built, rows: dict[str, Rows], tell: Tell) -> Supply | None:
    name = spec.validation or recipe.evaluate.validation
    if name is None or spec.validate_every is None:
        return None
    found, _ = supply(rows[name], spec, built.encoder_for(spec), tell(f"reading {name}", len(rows[name].rows)))
    return found
