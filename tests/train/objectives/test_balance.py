"""Learned weights of several losses: gradients and weights against one graph written down by hand, in fp64."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sightline.data.row import Row
from sightline.errors import UserError
from sightline.losses.weighting import GradNorm, Uncertainty
from sightline.models.build import Built, build
from sightline.recipe.read import to_yaml, validate
from sightline.recipe.schema import Parallel, Recipe
from sightline.recipe.yaml_file import parse
from sightline.train.checkpoint import WHOLE
from sightline.train.interrupt import Interrupted
from sightline.train.objectives import PairLosses
from sightline.train.objectives.balance import Balance, shared_weights
from sightline.train.objectives.embedded import image_ids
from sightline.train.parallel.layout import Layout
from sightline.train.parallel.ranks import Ranks, joined_ranks
from sightline.train.precision import pick_precision
from sightline.train.run import resume, train
from sightline.train.step import train_step
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.objectives.test_pairs import CPU, PAIRS, micro_batches
from tests.train.objectives.test_slow import fused_recipe
from tests.train.test_blip2 import chain, stopping
from tests.train.test_blip2 import weights as model_weights
from tests.train.tiny import RECIPE

LOSSES = {"itc": 1.0, "mlm": 2.0}
KINDS = ("uncertainty", "gradnorm")
ONE = Ranks(0, 1, CPU)


def weighted(weighting: Any, objective: dict[str, float] | None = None) -> Recipe:
    """A tiny model whose texts look at images, with two losses that are functions of nothing drawn."""
    content = fused_recipe(objective or LOSSES, {"blocks": 1})
    return validate(content | {"stages": [content["stages"][0] | {"weighting": weighting}]}, where="tiny")


def prepared(rows: list[Row], weighting: Any) -> tuple[Built, PairLosses, torch.optim.Optimizer]:
    recipe = weighted(weighting)
    built = build(recipe.model, seed=0, texts=[row.answer for row in rows], dtype=torch.float64)
    built.model.eval()
    losses = PairLosses(recipe.stages[0])
    losses.check(built.model)
    assert losses.balance is not None and losses.balance.module is not None
    losses.balance.module.double()
    return built, losses, torch.optim.SGD(built.model.parameters(), lr=0.05)


def means_by_hand(built: Built, losses: PairLosses, batches: list[Any]) -> dict[str, Tensor]:
    """itc over all pairs and mlm over all words, in one graph."""
    model: Any = built.model
    found = [model.represent(batch) for batch in batches]
    image, text = torch.cat([one.image for one in found]), torch.cat([one.text for one in found])
    ids = torch.cat([image_ids(batch) for batch in batches])
    same = (ids[:, None] == ids).double()
    target, logits = same / same.sum(1, keepdim=True), model.scale_and_bias()[0] * image @ text.T
    itc = -((target * logits.log_softmax(1)).sum() + (target * logits.log_softmax(0)).sum()) / 2 / len(text)
    total, words = torch.zeros((), dtype=torch.float64), 0
    for batch, one in zip(batches, found, strict=True):
        masked = losses._masked(batch, losses._step)
        logits = model.unmask(one.seen, masked.input_ids, batch, masked.where)
        total = total - logits.log_softmax(1)[torch.arange(len(logits)), masked.targets].sum()
        words += len(masked.targets)
    return {"itc": itc, "mlm": total / words}


def step_by_hand(
    built: Built, losses: PairLosses, batches: list[Any], state: dict[str, Any], kind: str
) -> dict[str, float]:
    """One step of SGD on the weighted means, then of the weights, by the papers' own losses and autograd."""
    model = built.model
    model.zero_grad()
    means = means_by_hand(built, losses, batches)
    values = torch.stack(list(means.values()))
    if kind == "uncertainty":
        s: Tensor = state["s"]
        s.grad = None
        ((-s).exp() * values + s / 2).sum().backward()
        used = (-s.detach()).exp()
        state["optimizer"].step()
    else:
        used = state["w"]
        shared = [p for name, p in model.named_parameters() if name in state["shared"]]
        flat = [torch.cat([g.flatten() for g in torch.autograd.grad(m, shared, retain_graph=True)]) for m in values]
        w = used.clone().requires_grad_()
        norms = torch.stack([(w[i] * flat[i]).norm() for i in range(2)])
        first = state.setdefault("first", values.detach())
        ratio = values.detach() / first
        goal = (norms.mean() * (ratio / ratio.mean()) ** 1.5).detach()
        (by_weight,) = torch.autograd.grad((norms - goal).abs().sum(), w)
        (used * values).sum().backward()
        moved = used - 0.025 * by_weight
        state["w"] = moved * 2 / moved.sum()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 0.05 * p.grad
    return dict(zip(means, used.tolist(), strict=True))


def started(kind: str, names: list[str]) -> dict[str, Any]:
    """The weights where the recipe's 1 : 2 puts them."""
    if kind == "uncertainty":
        s = -torch.tensor([1.0, 2.0], dtype=torch.float64).log()
        s.requires_grad_()
        return {"s": s, "optimizer": torch.optim.Adam([s], lr=0.01)}
    return {"w": torch.tensor([1.0, 2.0], dtype=torch.float64) * 2 / 3, "shared": names}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [PAIRS, 3])
def test_steps_are_those_of_one_graph_by_hand(rows: list[Row], kind: str, size: int) -> None:
    """Three steps: the model's parameters and the weights, with and without a gradient cache."""
    built, losses, optimizer = prepared(rows, kind)
    twin, by_hand, _ = prepared(rows, kind)
    names = [f"language.encoder.layer.0.{n}" for n, p in twin.model.language.encoder.layer[0].named_parameters()]
    state = started(kind, [n for n, p in twin.model.named_parameters() if n in names and p.ndim > 1])
    for step in range(3):
        losses.before_step(step, 3)
        by_hand.before_step(step, 3)
        batches = micro_batches(built, rows, size)
        optimizer.zero_grad()
        result = train_step(built.model, batches, optimizer, pick_precision("fp32", CPU), WHOLE, None, objective=losses)
        used = step_by_hand(twin, by_hand, batches, state, kind)
        assert result.weights == pytest.approx(used, abs=1e-7 if step == 0 else 1e-6)
        own, wanted = dict(built.model.named_parameters()), dict(twin.model.named_parameters())
        for name, value in wanted.items():
            torch.testing.assert_close(own[name], value, atol=1e-7, rtol=1e-6, msg=name)
    assert result.weights["itc"] != pytest.approx(1.0 if kind == "uncertainty" else 2 / 3, abs=1e-3), "they moved"


def test_the_loss_is_told_by_the_recipes_weights(rows: list[Row]) -> None:
    """So that it can be compared over steps, and with validation."""
    built, losses, optimizer = prepared(rows, "uncertainty")
    batches = micro_batches(built, rows, 3)
    with torch.no_grad():
        losses.balance.module.log_variance.fill_(3.0)  # type: ignore[union-attr]
    means = {name: float(mean.detach()) for name, mean in means_by_hand(built, losses, batches).items()}
    result = train_step(built.model, batches, optimizer, pick_precision("fp32", CPU), WHOLE, None, objective=losses)
    assert float(result.loss_sum) / result.tokens == pytest.approx(means["itc"] + 2 * means["mlm"], rel=1e-6)
    assert {name: float(mean) for name, mean in result.terms.items()} == pytest.approx(means, rel=1e-6)


def test_uncertainty_settles_at_its_optimum(rows: list[Row]) -> None:
    """Of losses that stay, L: exp(s) = 2 L, so each weighted loss is 1/2."""
    balance = Balance(weighted({"kind": "uncertainty", "lr": 0.05}).stages[0])
    sums, factors = {"itc": torch.tensor(24.0), "mlm": torch.tensor(2.0)}, {}
    for _ in range(600):
        weights = balance.weights()
        factors = {"itc": weights["itc"] / 8, "mlm": weights["mlm"] / 10}
        balance.learn(sums, factors, ONE, pick_precision("fp32", CPU))
    assert balance.weights() == pytest.approx({"itc": 1 / 6, "mlm": 2.5}, rel=1e-3)


def test_a_loss_that_counts_nothing_moves_no_weight() -> None:
    for kind in KINDS:
        balance = Balance(weighted(kind).stages[0])
        balance.before_step(0, 10)
        before = balance.weights()
        balance.learn(
            {"itc": torch.tensor(8.0), "mlm": torch.tensor(0.0)},
            {"itc": before["itc"] / 8, "mlm": 0.0},
            ONE,
            pick_precision("fp32", CPU),
        )
        assert balance.weights()["mlm"] == before["mlm"], kind


def test_a_schedule_moves_by_the_share_of_the_stage(rows: list[Row]) -> None:
    points = {"mlm": [[0, 0], [0.5, 1], [1, 0.5]]}
    built = build(weighted("fixed").model, seed=0, texts=[row.answer for row in rows])
    losses = PairLosses(weighted({"kind": "schedule", "points": points}).stages[0])
    losses.check(built.model)
    optimizer, seen = torch.optim.SGD(built.model.parameters(), lr=0.0), []
    for step in range(5):
        losses.before_step(step, 5)
        batches = micro_batches(built, rows, 4)
        seen.append(
            train_step(
                built.model, batches, optimizer, pick_precision("fp32", CPU), WHOLE, None, objective=losses
            ).weights
        )
    assert [each["mlm"] for each in seen] == [0, 0.5, 1, 0.75, 0.5] and {each["itc"] for each in seen} == {1}
    assert PairLosses(weighted("fixed").stages[0]).balance is None


# --- ranks -----------------------------------------------------------------------------------------------------------


def work(rank: int, port: int, rows: list[Row], out: str) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        for kind in KINDS:
            built, losses, optimizer = prepared(rows, kind)
            for step in range(2):
                losses.before_step(step, 2)
                own = micro_batches(built, rows, 2)[rank::2]
                optimizer.zero_grad()
                train_step(
                    built.model,
                    own,
                    optimizer,
                    pick_precision("fp32", CPU),
                    Layout(Parallel(), ranks),
                    None,
                    objective=losses,
                )
            assert losses.balance is not None
            torch.save((losses.balance.weights(), built.model.state_dict()), f"{out}/{kind}-{rank}.pt")


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_learn_the_weights_of_one(rows: list[Row], tmp_path: Path) -> None:
    port = free_port()
    spawn(work, args=(port, rows, str(tmp_path)), nprocs=2)
    for kind in KINDS:
        (one, state), (other, _) = (torch.load(tmp_path / f"{kind}-{rank}.pt") for rank in range(2))
        assert one == other, "to the last bit"
        built, losses, optimizer = prepared(rows, kind)
        for step in range(2):
            losses.before_step(step, 2)
            optimizer.zero_grad()
            batches = micro_batches(built, rows, PAIRS)
            train_step(built.model, batches, optimizer, pick_precision("fp32", CPU), WHOLE, None, objective=losses)
        assert losses.balance is not None and one == pytest.approx(losses.balance.weights(), abs=1e-7)
        for name, value in built.model.state_dict().items():
            torch.testing.assert_close(state[name], value, atol=1e-7, rtol=1e-7, msg=name)


# --- in a run --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "weighting", ["uncertainty", pytest.param({"kind": "gradnorm", "alpha": 0.5}, marks=pytest.mark.slow)]
)
def test_a_resumed_run_has_the_weights_of_one_that_never_stopped(tmp_path: Path, weighting: Any) -> None:
    content: dict[str, Any] = chain(tmp_path).model_dump(mode="json")
    stage = content["stages"][0] | {"weighting": weighting}
    recipe = validate(
        content | {"stages": [stage], "evaluate": {}, "evaluate_after": {}, "guard": {"on": True}}, where="weighted"
    )
    whole = train(recipe, tmp_path / "whole")
    stopped = tmp_path / "stopped"
    with pytest.raises(Interrupted):
        train(recipe, stopped, listen=stopping(2))
    assert (stopped / "checkpoints" / "latest" / "weighting.safetensors").is_file()
    resume(stopped)
    logs = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (whole, stopped)]
    told = [[line["weights"] for line in log if line["event"] == "train"] for log in logs]
    assert len(told[0]) == 4 and told[0] == told[1] and told[0][0] != told[0][-1]
    states = [load_file(run / "checkpoints" / "latest" / "weighting.safetensors") for run in (whole, stopped)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    ends = [model_weights(run) for run in (whole, stopped)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    verdicts = [json.loads(line) for line in (whole / "findings.jsonl").read_text().splitlines()]
    assert not [line for line in verdicts if line["kind"] == "finding"], "the guard has nothing to say of it"


def test_the_recipe_reads_back(tmp_path: Path) -> None:
    for weighting in (
        "uncertainty",
        {"kind": "gradnorm", "shared": "layer"},
        {"kind": "schedule", "points": {"mlm": [[0, 1]]}},
    ):
        recipe = weighted(weighting)
        assert validate(parse(to_yaml(recipe), "recipe"), where="again") == recipe
    assert isinstance(Balance(weighted("uncertainty").stages[0]).module, Uncertainty)
    assert isinstance(Balance(weighted("gradnorm").stages[0]).module, GradNorm)


# --- what cannot be weighed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weighting", "objective", "said"),
    [
        ("uncertainty", {"itc": 1}, "itc is the only one"),
        ("gradnorms", LOSSES, "see.weighting: Input should be 'fixed', 'schedule'"),
        ({"kind": "schedule"}, LOSSES, "a schedule needs 'points'"),
        ({"kind": "schedule", "points": {"itm": [[0, 1]]}}, LOSSES, "names itm, which is not in 'objective'"),
        ({"kind": "schedule", "points": {"mlm": [[0.5, 1], [0.5, 2]]}}, LOSSES, "are not a rising list"),
        ({"kind": "uncertainty", "alpha": 2}, LOSSES, "'alpha' is read by kind gradnorm, not by uncertainty"),
    ],
)
def test_settings_that_mean_nothing(weighting: Any, objective: dict[str, float], said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        weighted(weighting, objective)
    assert str(error.value).count("\n") <= 1


def test_answers_are_one_loss() -> None:
    with pytest.raises(UserError, match="next-token is the only one"):
        validate(RECIPE | {"stages": [RECIPE["stages"][0] | {"weighting": "gradnorm"}]}, where="tiny")


def test_the_compared_weights(rows: list[Row]) -> None:
    """The last layer that both losses reach: not the fusing one, which the comparison never sees."""
    built, _, _ = prepared(rows, "gradnorm")
    own = {id(p): name for name, p in built.model.named_parameters()}
    found = [own[id(p)] for p in shared_weights(built.model, ["itc", "mlm"], None, "see")]
    assert found and all(name.startswith("language.encoder.layer.0.") for name in found)
    named = [own[id(p)] for p in shared_weights(built.model, ["itc", "mlm"], r"vision.*q_proj", "see")]
    assert len(named) == 2
    with pytest.raises(UserError, match="'fusion' matches no weights that all of itc, mlm reach"):
        shared_weights(built.model, ["itc", "mlm"], "fusion", "see")
    with pytest.raises(UserError, match="not a regular expression"):
        shared_weights(built.model, ["itc", "mlm"], "(", "see")
    for name, p in built.model.named_parameters():
        p.requires_grad_("fusion" in name or "projection" in name)
    with pytest.raises(UserError, match="no layer that learns by all of itc, mlm"):
        shared_weights(built.model, ["itc", "mlm"], None, "see")
