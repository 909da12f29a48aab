"""Real runs with a fault planted in them, and one that is well: what is found, and that nothing else is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sightline.commands.doctor import recurring, with_rows
from sightline.doctor.diagnosis import Diagnosis, Examination
from sightline.doctor.examine import examine
from sightline.doctor.record import read_record
from sightline.train.run import resume, train
from tests.doctor.planted import LONG, ODD_ROW, STEPS, back, between_towers, killed, recipe, rows

DETACHED: Any = lambda features: features.detach()  # noqa: E731
FAINT: Any = lambda features: features * 1e-5  # noqa: E731


def looked_at(run: Path) -> Examination:
    return examine(read_record(run))


def only(found: Examination, name: str) -> Diagnosis:
    """The one thing that is wrong."""
    assert [one.name for one in found.wrong] == [name], [one.says for one in found.wrong]
    return found.wrong[0]


def test_a_run_that_is_well(well: Path) -> None:
    found = looked_at(well)
    assert found.wrong == () and found.notes == ()
    assert {look.about for look in found.looks if not look.recorded} == {"guard"}
    record = read_record(well)
    assert len(record.stages[0].steps) == STEPS and len(record.stages[0].layers) == 7
    assert record.held is False and [save.step for save in record.saves] == [STEPS]


@pytest.mark.slow
def test_a_jump_is_led_back_to_the_row_that_made_it(tmp_path: Path) -> None:
    """Its twin is the run that is well: the same but for this row."""
    run = train(recipe(rows(tmp_path / "rows", odd=True), LONG), tmp_path / "run")
    record = read_record(run)
    one = only(with_rows(examine(record), record), "loss-jumps")
    assert all(fed.proved for fed in one.rows) and len(one.rows) >= 3
    row, times = recurring(one.rows)[0]
    assert row.endswith(f"rows.jsonl row {ODD_ROW}") and times == len(one.rows)
    assert sum(count == times for _, count in recurring(one.rows)) == 1
    assert "zq" in one.answers[row]
    assert one.ordered()[0].says == f"{row} is in all {times} of these steps"


@pytest.mark.slow
def test_rows_that_changed_since_are_told(tmp_path: Path) -> None:
    path = rows(tmp_path / "rows", odd=True)
    run = train(recipe(path, LONG), tmp_path / "run")
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:80]) + "\n")
    record = read_record(run)
    found = with_rows(examine(record), record)
    assert not any(fed.proved for fed in found.wrong[0].rows)
    assert any("the data have changed" in note for note in found.notes)
    path.unlink()
    found = with_rows(examine(record), record)
    assert found.wrong[0].rows == () and any("cannot be worked out again" in note for note in found.notes)


@pytest.mark.slow
def test_a_killed_run_can_go_on(data: Path, tmp_path: Path) -> None:
    content = recipe(data, {"steps": 16}, checkpoints={"every": 6})
    run = killed(content, tmp_path / "run", step=8)
    assert looked_at(run).wrong == ()  # it may be alive on another machine, which shares no locks
    back(run, 600)
    one = only(looked_at(run), "killed")
    assert "nobody holds run.lock" in one.says
    assert (
        one.ordered()[0].do
        == f"sightline train --resume {run} (from checkpoint see-6; 2\N{NO-BREAK SPACE}steps are taken again)"
    )
    resume(run)
    assert looked_at(run).wrong == ()


@pytest.mark.slow
def test_a_run_that_lives_and_stands_still(data: Path, tmp_path: Path) -> None:
    """Asked from inside the run, whose lock is held: first at once, then as if an hour had passed."""
    seen: list[Examination] = []

    def listen(event: dict[str, Any]) -> None:
        if event["event"] == "train" and event["global_step"] == 8:
            seen.append(looked_at(tmp_path / "run"))
            back(tmp_path / "run", 3600)
            seen.append(looked_at(tmp_path / "run"))

    train(recipe(data, {"steps": 12}, workers=1), tmp_path / "run", listen)
    assert seen[0].wrong == () and seen[0].looks[0].says.startswith("running in stage see, step 8 of 12")
    one = only(seen[1], "stuck")
    assert "the process lives and stands still" in one.says and one.ordered()[0].do == "workers=0"


@pytest.mark.slow
def test_a_crash_is_told_with_its_place(data: Path, tmp_path: Path) -> None:
    def fall(event: dict[str, Any]) -> None:
        if event["global_step"] == 8:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(RuntimeError):
        train(recipe(data), tmp_path / "run", listen=fall)
    one = only(looked_at(tmp_path / "run"), "crashed")
    assert "CUDA out of memory" in one.says and "in fall" in str(one.seen["where"])
    first = one.ordered()[0]
    assert (first.likelihood, first.says) == ("shown", "out of memory")
    assert first.do == "stages.see.micro_batch=4, or stages.see.gradient_checkpointing=true"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "name", "says"),
    [
        (DETACHED, "blocked-boundary", "reaches language and not connector (nor vision behind it)"),
        (FAINT, "towers-out-of-balance", "language and vision are out of balance"),
    ],
    ids=["detached", "faint"],
)
def test_between_the_towers(data: Path, tmp_path: Path, change: Any, name: str, says: str) -> None:
    with between_towers(change):
        train(recipe(data), tmp_path / "run")
    one = only(looked_at(tmp_path / "run"), name)
    assert says in one.says


def overflowing(features: Any) -> Any:
    """The gradient that comes back through here is beyond fp16, whatever the loss scale."""
    if features.requires_grad:
        features.register_hook(lambda gradient: gradient * 1e30)
    return features


@pytest.mark.slow
@pytest.mark.parametrize("faulty", [True, False])
def test_a_loss_scale_that_collapses(data: Path, tmp_path: Path, faulty: bool) -> None:
    with between_towers(overflowing if faulty else lambda features: features):
        train(recipe(data, precision="fp16"), tmp_path / "run")
    found = looked_at(tmp_path / "run")
    if not faulty:
        assert found.wrong == ()
        assert "overflow" in next(look.says for look in found.looks if look.about == "loss scale")
        return
    assert "loss-scale-collapses" in {one.name for one in found.wrong}
    one = next(one for one in found.wrong if one.name == "loss-scale-collapses")
    assert one.severity == "error" and one.ordered()[0].do == "precision=bf16"
    told = next(look.says for look in found.looks if look.about == "loss scale")
    assert int(told.split(", ")[-1].split()[0]) > 20, told  # from 65,536 on, until a scale of 0 shows no overflow


@pytest.mark.slow
def test_a_rate_that_is_too_high(data: Path, tmp_path: Path) -> None:
    stage = {"lr": 30.0, "optimizer": {"clip": None}, "schedule": {"warmup": 0.0, "kind": "constant"}}
    train(recipe(data, stage), tmp_path / "run")
    found = looked_at(tmp_path / "run")
    loss = next(one for one in found.wrong if one.name == "loss-explodes")
    assert found.found[0] == loss and loss.severity == "error" and loss.step is not None and loss.step <= 4
    assert loss.ordered()[0].do == "stages.see.lr=0.09" and loss.ordered()[0].likelihood == "shown"
    assert {"stages.see.schedule.warmup=0.1", "stages.see.optimizer.clip=1.0"} <= {cause.do for cause in loss.causes}


def test_layers_that_no_gradient_reaches(well: Path, tmp_path: Path) -> None:
    """Planted in the records of the run that is well."""
    run = shutil.copytree(well, tmp_path / "run")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        if line["event"] == "layers":
            line["grad_norm"] |= {"vision.0": None, "vision.in": 0.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    one = only(looked_at(run), "blocked-layers")
    assert "vision.in, vision.0 get no gradient" in one.says and "stages.see.learn.vision" in one.causes[0].do
