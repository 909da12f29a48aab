"""Losses that compare a step's pairs, with weights that no rank has whole: what one process trains, step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from sightline.data.batch import Batch
from sightline.data.dataset import read_rows
from sightline.data.pack import pack
from sightline.errors import UserError
from sightline.models.build import Built, build
from sightline.recipe.schema import Parallel, Recipe
from sightline.train.freeze import freeze
from sightline.train.objectives import objective_of
from sightline.train.parallel.fsdp import Fsdp
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.sharded import whole
from sightline.train.precision import pick_precision
from sightline.train.run import resume, train
from tests.models.connectors.former import CONFIG
from tests.train.objectives.test_pairs import TEXT
from tests.train.objectives.test_slow import BERT
from tests.train.parallel.runs import ALL, FROZEN, on_processes, recipe, table
from tests.train.parallel.test_layouts import SHARED, copied, same
from tests.train.tiny import RECIPE, captioned

SIZES = {name: CONFIG[name] for name in CONFIG if name != "vocab_size"} | {"max_position_embeddings": 16}
SIDES = {
    "vision": RECIPE["model"]["compose"]["vision"],
    "language": {"config": TEXT | {"attention_dropout": 0.0}},
    "tokenizer": {"build": "words"},
    "embed": 8,
    "pool": "mean",
}
FUSED = {
    "language": {"config": BERT | {"attention_probs_dropout_prob": 0.0}, "pool": "first"},
    "fusion": {"blocks": 1, "momentum": 0.9, "queue": 16},
}
FORMER = {"kind": "q-former", "queries": 2, "embed": 8, "config": SIZES}

# Steps as long as gradients are, down to rounding: Adam's own would make a full step of that.
EVEN = {"weight_decay": 0.1, "clip": 0.5, "eps": 1e-3}

# name: (model, objective, changes to the stage)
KINDS: dict[str, tuple[dict[str, Any], dict[str, float], dict[str, Any]]] = {
    "clip": ({"pair": SIDES}, {"itc": 1}, {}),
    "siglip": ({"pair": SIDES | {"bias": -2.0}}, {"sigmoid": 1}, {}),
    "coca": ({"pair": SIDES | {"pool": "attention", "caption": {"queries": 3, "blocks": 1}}}, {"itc": 1, "itg": 2}, {}),
    "albef": ({"pair": SIDES | FUSED}, {"itc": 1, "itm": 1, "mlm": 1}, {"pairs": {"distil": 0.4}}),
    "blip2": ({"compose": RECIPE["model"]["compose"] | {"connector": FORMER}}, {"itc": 1, "itm": 1, "itg": 1}, {}),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captions of each image, side by side: in some micro-batches of two no pair is a negative of the other."""
    return captioned(tmp_path_factory.mktemp("pairs"))


def pairs(rows: Path, kind: str, learn: dict[str, Any] = ALL, parallel: Any = "ddp", **changes: Any) -> Recipe:
    """Micro-batches of two: who has a wrong pair to draw has one alone, so that no random number decides."""
    model, objective, own = KINDS[kind]
    if "compose" in model:  # a language tower has no part in it
        learn = {tower: part for tower, part in learn.items() if tower != "language"}
    stage: dict[str, Any] = {"objective": objective, "micro_batch": 2, "optimizer": EVEN} | own
    stage |= changes.pop("stage", {})
    return recipe(rows, learn, parallel, model=model, stage=stage, **changes)


# --- one process, whose weights lie on a mesh of one -----------------------------------------------------------------


@pytest.fixture
def layout() -> Iterator[Fsdp]:
    """Weights are gathered and given back as on many ranks."""
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    try:
        settings = Parallel(kind="fsdp")
        yield Fsdp(settings, Ranks(0, 1, torch.device("cpu")), settings.sizes(1, 1))
    finally:
        dist.destroy_process_group()


def check_gradients(layout: Fsdp, spec: Recipe, built: Built, batches: list[Batch]) -> set[str]:
    """Shared out, the losses and gradients of a step are those of the whole model; names of what has any."""
    stage, home, precision = spec.stages[0], built.model, pick_precision("fp32", layout.ranks.device)
    freeze(home, stage)
    objective = objective_of(stage, 0, built.encoder_for(stage))
    objective.check(home)
    layout.check(home, stage, objective, precision)
    objective.before_step(0, 20)
    factors = dict.fromkeys(objective.weights, 0.1)

    away = layout.place(home, stage)
    optimizer = layout.optimizer(away, stage)
    torch.manual_seed(3)
    told = layout.backward(objective, layout.wrap(away, objective), batches, factors, precision, optimizer)
    found = {name: whole(p.grad) for name, p in away.named_parameters() if p.grad is not None}

    torch.manual_seed(3)
    expected = objective.backward(home, batches, factors, precision, layout.ranks)
    assert told.keys() == expected.keys()
    for name, total in expected.items():
        assert float(told[name]) == pytest.approx(float(total), abs=1e-6), name
    wanted = {name: p.grad for name, p in home.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, atol=1e-6, rtol=1e-5, msg=name)

    with torch.no_grad():
        layout.value(objective, away, batches[0])
    assert all(isinstance(p, DTensor) for p in away.parameters() if p.requires_grad and p.ndim)  # nothing is held on to
    return set(found)


@pytest.mark.parametrize("kind", ["siglip", "albef", "blip2"])
@pytest.mark.parametrize("size", [2, 4], ids=["embedded twice", "at once"])
def test_gradients_are_those_of_a_whole_model(rows: Path, layout: Fsdp, kind: str, size: int) -> None:
    spec = pairs(rows, kind)
    read = read_rows(spec.data["train"], "train").rows
    built = build(spec.model, seed=0, texts=[turn.text for row in read for turn in row.turns])
    encoder = built.encoder_for(spec.stages[0])
    sequences = [pack([encoder.encode(row)], "none", 64)[0] for row in read[:4]]  # each image in two pairs
    batches = [encoder.collate(sequences[i : i + size]) for i in range(0, 4, size)]
    assert "connector.temperature.log_scale" in check_gradients(layout, spec, built, batches)


@pytest.mark.parametrize("kind", ["pgd", "trades"])
def test_attacks_are_those_on_a_whole_model(layout: Fsdp, tmp_path: Path, kind: str) -> None:
    """The second micro-batch shows nothing to attack."""
    attack = {"kind": kind, "epsilon": "8/255", "steps": 2}
    spec = recipe(table(tmp_path), FROZEN, stage={"adversarial": attack})
    read = read_rows(spec.data["train"], "train").rows
    built = build(spec.model, seed=0, texts=[turn.text for row in read for turn in row.turns])
    batches = [built.encoder.collate([pack([built.encoder.encode(row)], "none", 64)[0]]) for row in read[:2]]
    assert [len(batch.image_keys) for batch in batches] == [1, 0]
    check_gradients(layout, spec, built, batches)


def test_gradnorm_is_refused(rows: Path, layout: Fsdp) -> None:
    stage = pairs(rows, "albef", stage={"weighting": "gradnorm"}).stages[0]
    built = build(pairs(rows, "albef").model, seed=0, texts=["a wall"])
    with pytest.raises(UserError, match="gradnorm compares gradients of whole matrices"):
        layout.check(built.model, stage, objective_of(stage), pick_precision("fp32", layout.ranks.device))


# --- real processes --------------------------------------------------------------------------------------------------


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("learn", [ALL, FROZEN], ids=["all", "frozen-vision"])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_weights_of_one_process(
    rows: Path, tmp_path: Path, world: int, learn: dict[str, Any], kind: str
) -> None:
    alone = train(pairs(rows, kind, learn), tmp_path / "alone")
    layouts = SHARED if learn is FROZEN else {name: SHARED[name] for name in ("fsdp", "hybrid")}
    runs = {tmp_path / name: pairs(rows, kind, learn, parallel) for name, parallel in layouts.items()}
    on_processes(world, runs)
    for run in runs:
        same(run, alone, but=("queue.",))  # which holds a step's pairs in the order of ranks


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pgd", "trades"])
@pytest.mark.parametrize("learn", [ALL, FROZEN], ids=["all", "frozen-vision"])
def test_attacks_of_one_process(tmp_path: Path, learn: dict[str, Any], kind: str) -> None:
    """Half of the pictures are attacked, and half of the micro-batches show none."""
    attack = {"kind": kind, "epsilon": "8/255", "steps": 2, "share": 0.5, "norm": "l2"}  # smooth: no sign to flip
    stage = {"adversarial": attack, "optimizer": EVEN}
    read = table(tmp_path)
    alone = train(recipe(read, learn, stage=stage), tmp_path / "alone")
    runs = {tmp_path / name: recipe(read, learn, parallel, stage=stage) for name, parallel in SHARED.items()}
    on_processes(2, runs)
    for run in runs:
        same(run, alone)


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["siglip", "albef"])
def test_a_checkpoint_goes_on_under_any_other_layout(rows: Path, tmp_path: Path, kind: str) -> None:
    """Its slow copy and queue, too, and averages of its weights."""
    changes: Any = {"checkpoints": {"every": 10, "keep": 9}, "stage": {"ema": 0.9, "gradient_checkpointing": True}}
    alone = train(pairs(rows, kind, **changes), tmp_path / "alone")
    on_processes(2, {tmp_path / name: pairs(rows, kind, ALL, name, **changes) for name in ("ddp", "fsdp")})
    assert (tmp_path / "fsdp" / "checkpoints" / "see-10" / "shards").is_dir()
    last = copied(tmp_path / "fsdp", tmp_path / "fsdp-alone", "ddp")
    resume(last)
    runs = [copied(tmp_path / "ddp", tmp_path / "ddp-fsdp", "fsdp")]
    runs += [copied(tmp_path / "fsdp", tmp_path / f"fsdp-{to}", to) for to in ("fsdp", "ddp")]
    on_processes(4, dict.fromkeys(runs))
    for run in (*runs, last):
        same(run, alone, but=("queue.",))
