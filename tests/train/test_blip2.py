"""BLIP-2's stages in one run: resumed within a stage and between two, on two ranks, saved, and gone on with."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sightline.data.pack import pack
from sightline.errors import UserError
from sightline.evaluate.run import evaluate
from sightline.models.build import build
from sightline.models.saved import load_run
from sightline.recipe.read import validate
from sightline.recipe.schema import Recipe
from sightline.train.freeze import freeze
from sightline.train.interrupt import Interrupted
from sightline.train.objectives import objective_of
from sightline.train.parallel.ranks import Ranks, joined_ranks
from sightline.train.precision import pick_precision
from sightline.train.run import resume, train
from tests.models.test_query_pairs import SIZES
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.tiny import COLOURS, RECIPE, drawn

FORMER = {"kind": "q-former", "queries": 2, "embed": 8, "config": SIZES | {"attention_probs_dropout_prob": 0.1}}
ALL = {"itc": 1, "itm": 1, "itg": 1}
COMPARED = {"data": "train", "metric": "retrieval", "rerank": 3}


def chain(folder: Path, **changes: Any) -> Recipe:
    """Compare, match and write with a frozen vision tower, then speak."""
    drawn(folder)
    lines = [{"image": f"{c}.png", "question": "what colour ?", "answer": f"it is {c}"} for c in COLOURS]
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = {"name": "represent", "data": {"train": 1}, "learn": {"connector": "all"}, "objective": ALL, "lr": 1e-2}
    second = {"name": "speak", "data": {"train": 1}, "learn": {"connector": "all", "language": "all"}, "lr": 1e-2}
    lengths = {"steps": 4, "batch": 6, "micro_batch": 3}
    content = RECIPE | {
        "model": {"compose": RECIPE["model"]["compose"] | {"connector": FORMER}},
        "data": {"train": {"reader": "table", "path": str(folder / "rows.jsonl")}},
        "stages": [first | lengths, second | lengths],
        "evaluate_after": {"represent": COMPARED},
        "evaluate": {"data": "train", "max_new_tokens": 4},
        "checkpoints": {"every": 1},
    }
    return validate(content | changes, where="blip2")


def weights(run: Path) -> dict[str, Tensor]:
    return load_file(run / "checkpoints" / "latest" / "model.safetensors")


def stopping(after: int) -> Any:
    """A listener that asks the run to stop once `after` steps are logged."""
    seen = [0]

    def listen(event: dict[str, Any]) -> None:
        seen[0] += event["event"] == "train"
        if event["event"] == "train" and seen[0] == after:
            os.kill(os.getpid(), signal.SIGTERM)

    return listen


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path]:
    folder = tmp_path_factory.mktemp("whole")
    recipe = chain(folder)
    return recipe, train(recipe, folder / "run")


@pytest.mark.slow
def test_each_stage_is_judged_by_what_it_learns(whole: tuple[Recipe, Path]) -> None:
    after = json.loads((whole[1] / "after-represent" / "evaluation.json").read_text())
    last = json.loads((whole[1] / "evaluation.json").read_text())
    assert after["metric"] == "retrieval" and {"matching", "caption_nats_per_token"} <= after.keys()
    assert last["metric"] == "exact-match" and last["questions"] == len(COLOURS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "steps",
    [pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(6, marks=pytest.mark.slow)],
    ids=["within stage 1", "at its end", "within stage 2"],
)
def test_resumed_it_is_bit_identical(whole: tuple[Recipe, Path], tmp_path: Path, steps: int) -> None:
    recipe, run = whole
    with pytest.raises(Interrupted):
        train(recipe, tmp_path / "again", listen=stopping(steps))
    assert json.loads((tmp_path / "again" / "run.json").read_text())["status"] == "interrupted"
    again = resume(tmp_path / "again")
    expected, found = weights(run), weights(again)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    for name in ("evaluation.json", "after-represent/evaluation.json"):
        one, other = (json.loads((folder / name).read_text()) for folder in (run, again))
        assert {k: v for k, v in one.items() if k != "seconds"} == {k: v for k, v in other.items() if k != "seconds"}


@pytest.mark.slow
def test_a_run_loads_with_both_its_tokenizers(whole: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, run = whole
    built = load_run(run)
    assert built.pairs is not None and built.pairs.tokenizer.get_vocab() != built.encoder.tokenizer.get_vocab()
    rows = drawn(tmp_path)[1::2]
    one = evaluate(
        recipe.model_copy(update={"evaluate": recipe.evaluate_after["represent"]}), built, rows, (), tmp_path
    )
    assert one["images"] == len(COLOURS)


def test_another_recipe_goes_on_with_its_q_former(whole: tuple[Recipe, Path], tmp_path: Path) -> None:
    recipe, run = whole
    compose = recipe.model.compose
    assert compose is not None
    wider = compose.language.model_copy(update={"config": (compose.language.config or {}) | {"hidden_size": 32}})
    former = compose.connector.model_copy(update={"source": str(run / "model")})
    spec = recipe.model.model_copy(
        update={"compose": compose.model_copy(update={"connector": former, "language": wider})}
    )
    built, before = build(spec, seed=1, texts=["other words"]), load_run(run)
    assert built.pairs is not None and before.pairs is not None
    assert built.pairs.tokenizer.get_vocab() == before.pairs.tokenizer.get_vocab()
    own, theirs = built.model.state_dict(), before.model.state_dict()
    for name in theirs:
        if name.startswith("connector.") and not name.startswith("connector.to_language."):
            assert torch.equal(own[name], theirs[name]), name
    assert own["connector.to_language.weight"].shape == (32, SIZES["hidden_size"])
    smaller = former.model_copy(update={"queries": 1})
    spec = spec.model_copy(update={"compose": compose.model_copy(update={"connector": smaller})})
    with pytest.raises(UserError, match="does not fit this recipe's Q-Former"):
        build(spec, seed=1, texts=["other words"])


# --- two ranks -----------------------------------------------------------------------------------------------------


def gradients(folder: Path, ranks: Ranks) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of one step over two micro-batches of two pairs, so that each has one negative to draw."""
    recipe, rows = chain(folder), drawn(folder)[1::2][:4]
    built = build(recipe.model, seed=0, texts=[row.answer for row in rows], dtype=torch.float64)
    stage = recipe.stages[0]
    freeze(built.model, stage)
    built.model.eval()  # without dropout, whose random numbers belong to a rank
    encoder, objective = built.encoder_for(stage), objective_of(stage)
    sequences = [pack([encoder.encode(row)], "none", 64)[0] for row in rows]
    own = [encoder.collate(sequences[i : i + 2]) for i in (0, 2)][ranks.rank :: ranks.world]
    counts = objective.counts(own)
    totals = dict(zip(counts, ranks.sum(list(counts.values())), strict=True))
    factors = {name: ranks.world / total for name, total in totals.items()}
    sums = objective.backward(built.model, own, factors, pick_precision("fp32", torch.device("cpu")), ranks)
    ranks.average_gradients([p for p in built.model.parameters() if p.requires_grad])
    means = dict(zip(sums, ranks.sum([float(sums[name]) / totals[name] for name in sums]), strict=True))
    return means, {name: p.grad for name, p in built.model.named_parameters() if p.grad is not None}


def work(rank: int, port: int, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        torch.save(gradients(Path(folder) / str(rank), ranks), f"{folder}/{rank}.pt")


@pytest.mark.ddp
def test_two_ranks_learn_what_one_does(tmp_path: Path) -> None:
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    port = free_port()
    spawn(work, args=(port, str(tmp_path)), nprocs=2)
    expected, wanted = gradients(tmp_path, Ranks(0, 1, torch.device("cpu")))
    for rank in range(2):
        means, found = torch.load(tmp_path / f"{rank}.pt")
        assert means.keys() == expected.keys() == ALL.keys()
        for name in ALL:
            assert means[name] == pytest.approx(expected[name], rel=1e-6)
        assert found.keys() == wanted.keys() and not any(name.startswith("vision") for name in found)
        for name, grad in wanted.items():
            torch.testing.assert_close(found[name], grad, atol=1e-6, rtol=1e-6, msg=name)
