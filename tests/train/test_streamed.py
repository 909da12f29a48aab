"""Streamed stages: the same steps whatever the ranks and the loading processes, resumed from the middle of an epoch."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from sightline.data.dataset import Rows
from sightline.data.row import Row
from sightline.data.shards import find_shards
from sightline.errors import UserError
from sightline.models.build import Built
from sightline.recipe import load
from sightline.recipe.read import validate
from sightline.recipe.schema import DataSpec
from sightline.train.feed import plan_steps, steps, supply
from sightline.train.parallel.ranks import Ranks
from sightline.train.run import resume, train
from sightline.train.streamed import Shards, StreamedBatches, open_streams
from tests.data.test_shards import write
from tests.forked import TRAINER, Forks
from tests.train.tiny import COLOURS, RECIPE, stage

CPU = torch.device("cpu")
SIZES = (7, 2, 9, 5)  # samples of the shards: unequal, and with 4 lanes no piece is a whole shard


def sample(number: int) -> dict[str, bytes]:
    colour = COLOURS[number % len(COLOURS)]
    drawn = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(drawn, "PNG")
    if number % 3 == 0:  # captions and conversations side by side
        return {".png": drawn.getvalue(), ".txt": f"a {colour} thing".encode()}
    said = {"question": "what colour is it ?" + " again ?" * (number == 4), "answer": colour}
    return {".png": drawn.getvalue(), ".json": json.dumps(said).encode()}


def make_shards(folder: Path, broken: dict[int, dict[str, bytes]] | None = None) -> Path:
    """Shards of SIZES; samples `broken` as they are given."""
    folder.mkdir(exist_ok=True)
    first = 0
    for number, count in enumerate(SIZES):
        samples = {f"{n:03}": (broken or {}).get(n, sample(n)) for n in range(first, first + count)}
        write(folder / f"pairs-{number:02}.tar", samples)
        first += count
    return folder / "pairs-{00..03}.tar"


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return make_shards(tmp_path_factory.mktemp("data") / "shards")


def spec(path: Path, **more: Any) -> DataSpec:
    return DataSpec(reader="webdataset", path=str(path), stream={"shuffle": 8}, **more)


def feed(built: Built, data: DataSpec, world: int = 1, rank: int = 0, rows: Any = None, **changes: Any) -> Any:
    """The batches of one rank."""
    lanes = changes.pop("lanes", None)
    told = stage(**({"batch": 8, "steps": 6} | changes)).stages[0].model_copy(update={"lanes": lanes})
    shards = {"train": Shards(data, find_shards(data, "train"))}
    supplies = {} if rows is None else {"more": supply(Rows(tuple(rows)), told, built.encoder, lambda n: None)[0]}
    if rows is not None:
        told = told.model_copy(update={"data": {"train": 0.5, "more": 0.5}})
    plan = plan_steps(told, {"train": len(shards["train"])}, world)
    return StreamedBatches(shards, supplies, told, plan, 0, Ranks(rank, world, CPU), built.encoder)


def places(batches: Any, first: int = 0, workers: int = 0) -> list[list[str]]:
    """Where the rows of each step stand."""
    return [[str(where) for batch in step for where in batch.examples] for step in steps(batches, first, workers)]


def test_shards_that_a_command_fetches(built: Built, path: Path, tmp_path: Path) -> None:
    """The same steps as of local files, from any step on; a shard that is gone stops the run with its address."""
    counts = {f"pairs-{number:02}.tar": count for number, count in enumerate(SIZES)}
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    stream = {"shuffle": 8, "sizes": str(tmp_path / "counts.json")}
    data = DataSpec(reader="webdataset", path=f"pipe:cat '{path.parent}'/{path.name}", stream=stream)
    fetched = feed(built, data)
    there = [
        [place.replace(f"pipe:cat '{path.parent}'", str(path.parent)) for place in step] for step in places(fetched)
    ]
    assert there == places(feed(built, spec(path)))
    assert places(fetched, 3) == places(fetched)[3:]
    counts["pairs-04.tar"] = 5
    (tmp_path / "counts.json").write_text(json.dumps(counts))
    gone = data.model_copy(update={"path": str(data.path).replace("..03", "..04"), "broken": "skip"})
    with pytest.raises(UserError, match=r"pairs-04\.tar: .*exit"):
        places(feed(built, gone))


def test_an_epoch_holds_every_sample_once(built: Built, path: Path) -> None:
    batches = feed(built, spec(path), steps=None, epochs=8, batch=4)
    drawn = [place for step in places(batches) for place in step]
    total = sum(SIZES)
    assert len(drawn) == 8 * total == len(batches) * 4
    for epoch in range(8):  # lanes are at most one sample apart, here in step
        assert len(set(drawn[: (epoch + 1) * total])) == total
    assert set(Counter(drawn).values()) == {8}
    assert batches.drawn(46) == {
        "train": {"shards": 4, "samples": 23, "drawn": 184, "whole_epochs": 8, "left_of_last_epoch": 0}
    }
    assert batches.drawn(6)["train"] | {"whole_epochs": 1, "left_of_last_epoch": 22} == batches.drawn(6)["train"]


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_ranks_share_the_steps_of_one(built: Built, path: Path, world: int, micro: int) -> None:
    alone = places(feed(built, spec(path)))
    shares = [places(feed(built, spec(path), world, rank, micro_batch=micro)) for rank in range(world)]
    assert [list(chain.from_iterable(parts)) for parts in zip(*shares, strict=True)] == alone


def test_ranks_read_only_their_own_lanes(built: Built, path: Path) -> None:
    """Over one epoch, two ranks read each sample once between them."""
    shares = [places(feed(built, spec(path), 2, rank, batch=4, steps=None, epochs=1)) for rank in range(2)]
    drawn = Counter(place for share in shares for step in share for place in step)
    assert len(drawn) == sum(SIZES) and sum(drawn.values()) == 24  # one sample of the next epoch fills the last step


def test_ranks_that_cannot_share_the_lanes(built: Built, path: Path) -> None:
    with pytest.raises(UserError, match="read in 12 lanes, which 8 ranks cannot share") as error:
        feed(built, spec(path), world=8, batch=24)
    assert "run on 1, 2, 3, 4, 6 or 12 ranks" in str(error.value)
    assert feed(built, spec(path), world=8, batch=24, lanes=24).lanes == 24


def test_loading_processes_change_nothing(built: Built, path: Path) -> None:
    for here, there in zip(steps(feed(built, spec(path)), 0, 0), steps(feed(built, spec(path)), 0, 2), strict=True):
        assert torch.equal(here[0].input_ids, there[0].input_ids)
        assert here[0].pixel_values is not None and there[0].pixel_values is not None
        assert torch.equal(here[0].pixel_values, there[0].pixel_values)


@pytest.mark.parametrize("first", range(6))
def test_steps_start_anywhere(built: Built, path: Path, rows: list[Row], first: int) -> None:
    for more in (None, rows):
        batches = feed(built, spec(path), rows=more, micro_batch=4)
        assert places(batches, first) == places(batches)[first:]
    assert [str(where) for where in batches[2 * first + 1].examples] == places(batches, first)[0][4:]


def test_streams_and_rows_are_mixed_in_every_step(built: Built, path: Path, rows: list[Row]) -> None:
    for step in places(feed(built, spec(path), rows=rows, steps=20)):
        assert sum("pairs-" in place for place in step) == 4
    drawn = [place for step in places(feed(built, spec(path), rows=rows, steps=6)) for place in step]
    assert len({place for place in drawn if "pairs-" in place}) == 23  # 24 draws of 23 samples


def test_broken_samples_leave_their_slots_empty_and_are_told(built: Built, tmp_path: Path) -> None:
    cut = sample(1)[".png"][:60]
    broken = {1: sample(1) | {".png": cut}, 5: {".png": sample(5)[".png"]}, 12: {".png": cut, ".txt": b"a cut one"}}
    path = make_shards(tmp_path / "broken", broken)
    with pytest.raises(UserError, match=r"pairs-0\d\.tar row \d: "):
        places(feed(built, spec(path)))
    batches = feed(built, spec(path, broken="skip"), steps=None, epochs=1, batch=4)
    made = [batch for step in steps(batches, 0, 0) for batch in step]
    skipped = [each for batch in made for each in batch.skipped]
    assert sum(len(batch.examples) for batch in made) + len(skipped) == 24
    told = {str(each.where).rpartition("/")[2]: each.reason for each in skipped}
    assert told.keys() == {"pairs-00.tar row 2", "pairs-00.tar row 6", "pairs-02.tar row 4"}
    assert "sample '005'" in told["pairs-00.tar row 6"] and "sample '012': image" in told["pairs-02.tar row 4"]
    lonely = feed(built, spec(path, broken="skip"), steps=None, epochs=1, batch=4, micro_batch=1)
    with pytest.raises(UserError, match="all 1 samples of a micro-batch are broken"):
        places(lonely)


def test_rows_over_the_limit_are_told(built: Built, path: Path) -> None:
    data = spec(path)
    longest = max(len(built.encoder.encode(row)) for row in Shards(data, find_shards(data, "train")).rows())
    skip = feed(built, data, max_length=longest - 1, over_length="skip", steps=None, epochs=1)
    skipped = [each for step in steps(skip, 0, 0) for batch in step for each in batch.skipped]
    assert skipped and all("more than max_length" in each.reason for each in skipped)
    with pytest.raises(UserError, match="more than max_length"):
        places(feed(built, data, max_length=longest - 1))


@pytest.mark.slow
def test_the_counts_are_kept_and_the_shards_must_stay(path: Path, tmp_path: Path) -> None:
    kept, alone = tmp_path / "streams.json", Ranks(0, 1, CPU)
    first = open_streams({"train": spec(path)}, kept, alone)
    assert [shard.samples for shard in first["train"].shards] == list(SIZES)
    assert open_streams({"train": spec(path)}, kept, alone) == first
    with pytest.raises(UserError, match="others than when this run began"):
        open_streams({"train": spec(Path(str(path).replace("..03", "..02")))}, kept, alone)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pack": "length"}, "'pack' needs all rows at hand"),
        ({"group_by_length": True}, "'group_by_length' needs all rows at hand"),
        ({"lanes": 3}, "3 lanes do not divide batch 4"),
        ({"data": {"test": 1}, "lanes": 2}, "it reads none"),
    ],
)
def test_what_streams_cannot_do(path: Path, change: dict[str, Any], message: str) -> None:
    data = RECIPE["data"] | {"train": {"reader": "webdataset", "path": str(path), "stream": {}}}
    with pytest.raises(UserError, match=message):
        validate(RECIPE | {"data": data, "stages": [RECIPE["stages"][0] | change]}, "tiny")


def test_only_whole_shards_are_streamed(path: Path) -> None:
    with pytest.raises(ValueError, match="'stream' reads tar shards"):
        DataSpec(reader="table", path="rows.jsonl", stream={})
    with pytest.raises(ValueError, match="a stream is read whole"):
        DataSpec(reader="webdataset", path=str(path), stream={}, limit=3)


# --- whole runs --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def content(path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A recipe that streams, with dropout and a second data set; it ends in the third epoch."""
    made: dict[str, Any] = json.loads(json.dumps(RECIPE))
    made["model"]["compose"]["language"]["config"]["attention_dropout"] = 0.1
    made["model"]["attention"] = "eager"
    made["data"] = {
        "train": {"reader": "webdataset", "path": str(path), "stream": {"shuffle": 8}},
        "held": {"reader": "webdataset", "path": str(path), "limit": 5},
    }
    made["guard"] = {"on": False}  # it has tests of its own
    made["stages"] = [made["stages"][0] | {"steps": 13, "micro_batch": 2, "flip": True, "validate_every": 5}]
    made["evaluate"] = {"validation": "held"}
    made["checkpoints"] = {"every": 4, "keep": 9}
    return made


SCRIPT = textwrap.dedent(
    """
    import json, os, signal, sys
    import torch
    torch.set_num_threads(1)
    from pathlib import Path
    from sightline.recipe.read import validate
    from sightline.train.run import train
    def listen(event):
        if event["event"] == "train" and event["step"] == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    train(validate(json.loads(sys.argv[1]), "tiny"), Path(sys.argv[2]), listen)
    """
)


def losses(run: Path) -> list[float]:
    events = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "train"]


def test_a_killed_run_goes_on_in_the_middle_of_an_epoch(content: dict[str, Any], tmp_path: Path, forks: Forks) -> None:
    """Killed at step 10, 2 steps behind a checkpoint; loaded by other processes afterwards."""
    whole = train(validate(content, "tiny"), tmp_path / "whole")
    out = tmp_path / "killed"
    (tmp_path / "script.py").write_text(SCRIPT)
    ended = forks.run("script.py", json.dumps(content), str(out), "10", cwd=tmp_path, knows=TRAINER, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert len(losses(out)) == 10
    resume(out)
    assert losses(out) == losses(whole) and len(losses(whole)) == 13
    one, other = (load_file(run / "checkpoints" / "see-13" / "model.safetensors") for run in (whole, out))
    assert all(torch.equal(one[key], other[key]) for key in one)
    facts = json.loads((out / "run.json").read_text())
    assert facts["stages"][0]["streams"]["train"] == {
        "shards": 4,
        "samples": 23,
        "drawn": 52,
        "whole_epochs": 2,
        "left_of_last_epoch": 17,
    }


@pytest.mark.slow
def test_what_a_stream_left_out_is_in_the_run(content: dict[str, Any], tmp_path: Path) -> None:
    path = make_shards(tmp_path / "broken", {3: {".png": b"none", ".txt": b"a lost one"}})
    data = {"train": {"reader": "webdataset", "path": str(path), "stream": {}, "broken": "skip"}}
    stages = [content["stages"][0] | {"steps": 12, "micro_batch": None, "validate_every": None}]
    made = content | {"data": data, "stages": stages, "evaluate": {}}
    run = train(validate(made, "tiny"), tmp_path / "run")
    facts = json.loads((run / "run.json").read_text())
    assert facts["skipped_count"] == len(facts["skipped_rows"]) == 2  # once in each of two epochs
    assert facts["skipped_rows"][0]["where"].endswith("pairs-00.tar row 4")
    assert "sample '003'" in facts["skipped_rows"][0]["reason"]
    assert "pairs-00.tar" not in (run / "metrics.jsonl").read_text()


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_killed_and_resumed(content: dict[str, Any], tmp_path: Path) -> None:
    """Two ranks give the losses of one; killed with all their processes, they go on to the bit; one goes on for two."""
    content = json.loads(json.dumps(content))
    content["model"]["compose"]["language"]["config"]["attention_dropout"] = 0.0
    content["stages"][0]["flip"] = False
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(content | {"workers": 1}))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone", "-m", "sightline"]

    def pair(*arguments: str) -> None:
        ended = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=300)
        assert ended.returncode == 0, ended.stdout + ended.stderr

    alone = train(load(str(recipe)), tmp_path / "alone")
    pair("train", str(recipe), "--out", str(tmp_path / "pair"))
    assert losses(tmp_path / "pair") == pytest.approx(losses(alone), rel=1e-4)
    for name in ("killed", "left"):
        started = subprocess.Popen([*command, "train", str(recipe), "--out", str(tmp_path / name)])
        while started.poll() is None and not (tmp_path / name / "checkpoints" / "see-4").is_dir():
            time.sleep(0.01)
        for process in (*psutil.Process(started.pid).children(recursive=True), started):
            process.kill()  # the ranks are in sessions of their own
        started.wait()
    assert len(losses(tmp_path / "killed")) < 13
    pair("train", "--resume", str(tmp_path / "killed"))
    assert losses(tmp_path / "killed") == losses(tmp_path / "pair")
    resume(tmp_path / "left")  # by one process
    assert losses(tmp_path / "left") == pytest.approx(losses(alone), rel=1e-4)
