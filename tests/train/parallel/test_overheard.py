"""Rows, rates and losses are watched where no rank has a model to watch: planted faults are told, and nothing else."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from sightline.data.encode_composed import ComposedEncoder
from sightline.data.pack import pack
from sightline.errors import UserError
from sightline.guard.catalogue import pages
from sightline.recipe.schema import Parallel, Recipe
from sightline.train import stage as stages
from sightline.train.groups import build_optimizer, set_rates
from sightline.train.overheard import HEARD, Overheard, heard, rows_of, unheard
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks
from sightline.train.run import train
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.parallel.runs import ALL, losses, recipe, table
from tests.train.tiny import COLOURS, drawn, fresh
from tests.train.tiny import recipe as tiny

ENGINES: dict[str, Any] = {"zero2": "zero2", "pipeline": {"pipeline": 2}}
Planted = tuple[Path, Recipe, str]  # where to, what, and the fault ("": none)


def layout(parallel: Any, world: int) -> Layout:
    return Layout(Parallel.model_validate(parallel), Ranks(0, world, torch.device("cpu")))


def test_what_is_not_run_says_why() -> None:
    zero, pipeline = layout({"kind": "zero3"}, 2), layout({"pipeline": 2}, 1)
    assert {check.page.code for check in heard(zero)} == HEARD
    for each, codes in ((zero, HEARD), (pipeline, HEARD - {"D2"})):
        told = {line["code"]: line["why"] for line in unheard(each)}
        assert told.keys() | codes == {page.code for page in pages()} and not told.keys() & codes
    why = {line["code"]: line["why"] for line in unheard(pipeline)}
    assert "torch's schedule" in why["T1"] and "fed the same rows, as they should be" in why["D2"]
    assert all("DeepSpeed" in line["why"] for line in unheard(zero))


def test_the_stand_in_has_the_rates_and_none_of_the_weights(tmp_path: Path) -> None:
    rows = drawn(tmp_path)
    built = fresh(rows)
    model, encoder = built.model, built.encoder
    optimizer = build_optimizer(model, tiny().stages[0])
    overheard = Overheard(optimizer, encoder)
    batches = [encoder.collate(pack([encoder.encode(row) for row in some], "none", 512)) for some in (rows, rows[:2])]
    ours = {id(parameter) for parameter in overheard.stand_in.parameters()}
    assert not ours & {id(parameter) for parameter in model.parameters()}
    seen: list[Any] = []
    overheard.stand_in.register_forward_hook(lambda _, args, __: seen.append(args[0]))
    for factor in (0.5, 0.25):
        set_rates(optimizer, factor)
        overheard.step(batches)
        assert {group["lr"] for group in overheard.optimizer.param_groups} == {1e-3 * factor}
    assert seen == batches * 2
    assert all(not parameter.detach().any() for parameter in overheard.stand_in.parameters())


def test_rows_are_known_by_their_tokens_and_their_images(tmp_path: Path) -> None:
    """Twelve rows: two questions to each of six images."""
    rows = drawn(tmp_path)
    encoder = fresh(rows).encoder
    batch = encoder.collate(pack([encoder.encode(row) for row in rows], "none", 512))
    known = rows_of(batch, encoder)
    assert known["input_ids"] is batch.input_ids
    images = known["images"].flatten().tolist()
    assert len(images) == len(rows) and images[::2] == images[1::2] and len(set(images)) == 6
    assert rows_of(dataclasses.replace(batch, image_keys=()), encoder) == {}  # nobody knows which is shown


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `table`; beside it rows of images and texts that are in no other."""
    folder = tmp_path_factory.mktemp("rows")
    asked = [
        json.dumps({"image": f"{one}.png", "question": f"is {one} {other} ?", "answer": "yes"})
        for one, other in itertools.permutations(COLOURS, 2)
    ]
    made = table(folder)
    trained = made.read_text().splitlines()
    (folder / "held.jsonl").write_text("\n".join(asked))
    leaked = [line for pair in zip(asked, trained, strict=False) for line in pair]  # one of each kind in a batch
    (folder / "leaked.jsonl").write_text("\n".join([*leaked, *asked[len(trained) :]]))
    return made


def planned(rows: Path, parallel: Any, held_out: str = "held", guard: bool = True) -> Recipe:
    paths = {"train": rows, "held": rows.parent / "held.jsonl", "leaked": rows.parent / "leaked.jsonl"}
    sets = {name: {"reader": "table", "path": str(path)} for name, path in paths.items()}
    changes: dict[str, Any] = {"data": sets, "evaluate": {"validation": held_out}, "guard": {"on": guard}}
    return recipe(
        rows, ALL, parallel, log_every=1, stage={"micro_batch": 2, "steps": 12, "validate_every": 12}, **changes
    )


def planted(runs: Sequence[Planted]) -> None:
    """Train each recipe with its fault on two processes; a run that is stopped is none the worse for it."""
    spawn(_enter, ([free_port() for _ in runs], list(runs)), nprocs=2)


def _enter(rank: int, ports: list[int], runs: list[Planted]) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    for port, (folder, made, fault) in zip(ports, runs, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        with pytest.MonkeyPatch.context() as patch:
            _plant(patch, fault)
            if fault in ("taught", "cut"):  # found before the first step, and no rank goes on
                with pytest.raises(UserError):
                    train(made, folder)
            else:
                train(made, folder)


def _plant(patch: pytest.MonkeyPatch, fault: str) -> None:
    encode, collate, feed = ComposedEncoder.encode, ComposedEncoder.collate, stages.MicroBatches

    def taught(self: Any, *args: Any, **named: Any) -> Any:
        batch = collate(self, *args, **named)
        assert batch.labels is not None
        batch.labels = torch.where(batch.attention_mask, batch.labels, batch.input_ids)
        return batch

    def cut(self: Any, row: Any) -> Any:
        example = encode(self, row)
        kept = [n for n, token in enumerate(example.input_ids) if token != self.image_token_id]
        first = [n for n in range(len(example)) if n not in kept][1:]  # one placeholder less than the image has
        places = sorted([*kept, *first])
        names = ("input_ids", "labels")
        parts: dict[str, Any] = {name: tuple(getattr(example, name)[n] for n in places) for name in names}
        return dataclasses.replace(example, **parts)

    def same(supplies: Any, spec: Any, plan: Any, seed: int, ranks: Ranks, *rest: Any) -> Any:
        return feed(supplies, spec, plan, seed, dataclasses.replace(ranks, rank=0), *rest)

    if fault == "taught":
        patch.setattr(ComposedEncoder, "collate", taught)
    elif fault == "cut":
        patch.setattr(ComposedEncoder, "encode", cut)
    elif fault == "same":
        patch.setattr(stages, "MicroBatches", same)


def lines(run: Path, kind: str) -> dict[str, dict[str, Any]]:
    told = [json.loads(line) for line in (run / "findings.jsonl").read_text().splitlines()]
    return {line["code"]: line for line in told if line["kind"] == kind}


on_engines = pytest.mark.parametrize(
    "engine",
    [
        pytest.param("zero2", marks=pytest.mark.skipif(find_spec("deepspeed") is None, reason="needs deepspeed")),
        "pipeline",
    ],
)


@pytest.mark.ddp
@pytest.mark.slow
@on_engines
def test_a_clean_run_has_no_finding_and_no_other_number(rows: Path, tmp_path: Path, engine: str) -> None:
    clean, bare = tmp_path / "clean", tmp_path / "bare"
    parallel, compared = ENGINES[engine], {"D2"} if engine == "zero2" else set()
    planted([(clean, planned(rows, parallel), ""), (bare, planned(rows, parallel, guard=False), "")])
    assert losses(clean) == losses(bare) and losses(clean, "validation") == losses(bare, "validation")
    assert lines(clean, "finding") == {}
    assert lines(clean, "not-run").keys() == {page.code for page in pages()} - lines(clean, "passed").keys()
    assert {"L2", "M1", "P1", "T6", "X4"} | compared <= lines(clean, "passed").keys() <= (HEARD - {"D2"}) | compared


@pytest.mark.ddp
@pytest.mark.slow
@on_engines
def test_faults_of_rows_are_told(rows: Path, tmp_path: Path, engine: str) -> None:
    parallel, leaked = ENGINES[engine], tmp_path / "leaked"
    faults = {"taught": "L2", "cut": "X4"} | ({"same": "D2"} if engine == "zero2" else {})
    runs: list[Planted] = [(tmp_path / fault, planned(rows, parallel), fault) for fault in faults]
    planted([*runs, (leaked, planned(rows, parallel, held_out="leaked"), "")])
    for fault, code in faults.items():
        assert lines(tmp_path / fault, "finding").keys() == {code}, fault
    assert lines(leaked, "finding").keys() == {"M1"}
