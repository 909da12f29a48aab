"""The run's model at home: on each machine one copy of its weights, which is the same to the bit on all processes."""

from __future__ import annotations

import copy
import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.models.build import Built, build
from sightline.recipe.read import validate
from sightline.recipe.schema import Parallel
from sightline.train.freeze import freeze
from sightline.train.objectives import NextToken
from sightline.train.parallel.choose import layout_of
from sightline.train.parallel.home import Memory, lay_out, moved, taken
from sightline.train.parallel.presence import present
from sightline.train.parallel.ranks import Ranks
from sightline.train.parallel.sharded import local
from sightline.train.precision import pick_precision
from sightline.train.run import train
from sightline.train.step import train_step
from tests.ports import free_port
from tests.spawned import spawn
from tests.train.parallel.processes import on_ranks
from tests.train.parallel.runs import losses, recipe, table
from tests.train.tiny import RECIPE, fresh, stage

CONVOLUTIONS = {"model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}
LAYOUTS: list[dict[str, Any]] = [{"kind": "fsdp"}, {"kind": "fsdp", "frozen": "shard"}, {"kind": "hybrid", "shard": 1}]
LAYOUTS += [{"tensor": 2}, {"kind": "fsdp", "tensor": 2}, {"pipeline": 2}]


def model(**changes: Any) -> dict[str, Any]:
    """The tiny recipe's model with `changes` to its language tower."""
    made = json.loads(json.dumps(RECIPE["model"]))
    made["compose"]["language"]["config"] |= changes
    return dict(made)


def convolutional() -> dict[str, Any]:
    """With batch norm's statistics, filters that lie channels last, and tied embeddings."""
    made = model(tie_word_embeddings=True)
    tower = {"config": CONVOLUTIONS | {"layer_type": "basic"}, "layer": -1, "image_size": 16}
    made["compose"]["vision"] = tower
    return made | {"attention": "eager"}


def built(spec: dict[str, Any], seed: int = 0) -> Built:
    texts = ["what colour is it ? red green blue"]
    return build(validate(RECIPE | {"model": spec}, where="tiny").model, seed=seed, texts=texts)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, those that are not saved, too."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


# --- what is handed on ----------------------------------------------------------------------------------------------


def handed_on(first: Built) -> Built:
    """`first` as another process gets it."""
    laid = lay_out(first)
    assert laid is not None
    file, name, size = laid
    with file:
        other = taken(Memory(os.getpid(), file.fileno(), name, size))
    assert other is not None
    return other


@pytest.mark.parametrize("spec", [model(tie_word_embeddings=True), convolutional()], ids=["llama", "resnet"])
def test_another_process_gets_the_same_to_the_bit(spec: dict[str, Any], rows: list[Row]) -> None:
    first = built(spec)
    first.model.language.to(torch.bfloat16)  # type: ignore[union-attr]
    next(first.model.parameters()).requires_grad_(False)
    before = {name: (each.detach().clone(), each.stride()) for name, each in tensors(first.model).items()}
    other = handed_on(first)
    ours, theirs = tensors(first.model), tensors(other.model)
    assert ours.keys() == theirs.keys() == before.keys()
    for name, (value, strides) in before.items():
        for each in (ours[name], theirs[name]):
            assert torch.equal(each, value) and (each.dtype, each.stride()) == (value.dtype, strides), name
        assert type(ours[name]) is type(theirs[name]) and ours[name].requires_grad == theirs[name].requires_grad
        assert theirs[name].untyped_storage().nbytes() == theirs[name].nbytes  # so a copy of one is of no other
    language: Any = other.model.language
    assert language.get_input_embeddings().weight is language.get_output_embeddings().weight
    assert other.encoder is other.model.encoder  # type: ignore[attr-defined]
    assert [other.encoder.encode(row) for row in rows[:2]] == [first.encoder.encode(row) for row in rows[:2]]
    assert other.model.state_dict().keys() == first.model.state_dict().keys()


def test_what_one_writes_the_other_reads_and_a_copy_keeps() -> None:
    first = built(model())
    other = handed_on(first)
    kept = copy.deepcopy(other.model)
    with torch.no_grad():
        for each in tensors(first.model).values():
            each.add_(1)
    for name, each in tensors(other.model).items():
        assert torch.equal(each, tensors(first.model)[name]) and not torch.equal(each, tensors(kept)[name]), name


def test_a_model_that_cannot_be_pickled_stays_with_each_process() -> None:
    first = built(model())
    first.model.register_forward_hook(lambda *_: None)
    with pytest.warns(UserWarning, match="each holds all of them.*lambda"):
        assert lay_out(first) is None


def test_memory_of_another_process_than_the_one_that_was_meant_is_not_read() -> None:
    laid = lay_out(built(model()))
    assert laid is not None
    file, _, size = laid
    with file, pytest.warns(UserWarning, match="not what the machine's first process opened"):
        assert taken(Memory(os.getpid(), file.fileno(), "sightline-other", size)) is None


def test_home_comes_back_to_where_it_was() -> None:
    norm = nn.BatchNorm1d(3)
    before = {name: each.data_ptr() for name, each in tensors(norm).items()}
    with moved(norm, torch.device("meta")):
        assert {each.device.type for each in tensors(norm).values()} == {"meta"}
    assert {name: each.data_ptr() for name, each in tensors(norm).items()} == before


# --- nobody trains in shared memory ---------------------------------------------------------------------------------


def trained(ranks: Ranks, rows: list[Row], layouts: list[dict[str, Any]], learn: dict[str, str]) -> list[str]:
    """What of the home changed while three steps were taken away from it, or was not brought home; on this rank."""
    found = []
    for settings in layouts:
        layout, spec = layout_of(Parallel(**settings), ranks), stage(learn=learn).stages[0]
        precision, objective = pick_precision("fp32", ranks.device), NextToken()
        home = layout.at_home(lambda: fresh(rows))
        assert layout.keeps == (ranks.rank == 0)
        freeze(home.model, spec)
        layout.check(home.model, spec, objective, precision)
        before = {name: each.detach().clone() for name, each in tensors(home.model).items()}
        away = layout.place(home.model, spec)
        shared = {each.untyped_storage().data_ptr() for each in tensors(home.model).values()}
        found += [
            f"{settings}: {name} is trained in the home's memory"
            for name, each in tensors(away).items()
            if each.requires_grad and local(each).numel() and local(each).untyped_storage().data_ptr() in shared
        ]
        optimizer, module = layout.optimizer(away, spec), layout.wrap(away, objective)
        module.train()
        batches = [home.encoder.collate(pack([home.encoder.encode(row)], "none", 512)) for row in rows[:2]]
        for _ in range(3):
            optimizer.zero_grad()
            train_step(module, batches, optimizer, precision, layout, 0.5)
        ranks.barrier()
        now = tensors(home.model)
        found += [f"{settings}: {name} changed" for name, each in before.items() if not torch.equal(each, now[name])]
        ranks.barrier()
        layout.bring_home(away, home.model)
        told = {n for n, p in home.model.named_parameters() if p.requires_grad and torch.equal(p, before[n])}
        found += [f"{settings}: {name} did not come home" for name in told if not name.endswith("k_proj.bias")]
    return found


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize(
    "learn", [{"vision": "all", "connector": "all", "language": "all"}, {"connector": "all"}], ids=["all", "connector"]
)
def test_the_home_stays_as_it_is_until_a_stage_ends(rows: list[Row], tmp_path: Path, learn: dict[str, str]) -> None:
    (found,) = on_ranks(2, [(trained, (rows, LAYOUTS, learn))], tmp_path)
    assert found == [[], []]


@pytest.mark.slow
@pytest.mark.ddp
def test_nor_does_deepspeed_train_in_it(rows: list[Row], tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    learn = {"connector": "all", "language": "all"}
    kinds = [{"kind": "zero1"}, {"kind": "zero2"}, {"kind": "zero3"}]
    (found,) = on_ranks(2, [(trained, (rows, kinds, learn))], tmp_path)
    assert found == [[], []]


# --- one copy on each machine ---------------------------------------------------------------------------------------


def held(ranks: Ranks, rows: list[Row], machine: int) -> list[tuple[bool, bool]]:
    """Whether this process keeps its home, and whether it reads in it what its machine's first process writes."""
    found = []
    for kind in ("fsdp", "hybrid"):
        layout = layout_of(Parallel(kind=kind), ranks)  # type: ignore[arg-type]
        home = layout.at_home(lambda: fresh(rows)).model
        weight = next(home.parameters())
        began = weight.detach().clone()
        assert torch.equal(began, next(fresh(rows).model.parameters()))
        ranks.barrier()
        if layout.keeps:
            weight.data.fill_(ranks.rank + 1)
        ranks.barrier()
        found.append((layout.keeps, bool((weight == ranks.rank // machine * machine + 1).all())))
    return found


@pytest.mark.slow
@pytest.mark.ddp
def test_two_machines_have_a_home_each(rows: list[Row], tmp_path: Path) -> None:
    (found,) = on_ranks(4, [(held, (rows, 2))], tmp_path, machine=2)
    assert found == [[(keeps, True)] * 2 for keeps in (True, False, True, False)]


WIDE = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}


def memory(processes: Sequence[int]) -> int:
    """Bytes of the host's memory that they take together: what several share counts once."""
    return sum(psutil.Process(each).memory_full_info().pss for each in processes)


def weighed(ranks: Ranks) -> dict[str, float]:
    """What all ranks together hold of 229 MB of weights, and the most they ever did, in copies of them."""
    here, layout, spec = present(), layout_of(Parallel(kind="fsdp"), ranks), stage().stages[0]
    assert here is not None
    processes = [each.process for each in here.machines.values()]
    built(model())  # so that all that has to be imported is
    ranks.barrier()
    before, most, done = memory(processes), [0], threading.Event()
    ranks.barrier()

    def watch() -> None:
        while not done.wait(0.05):
            most.append(memory(processes) - before)

    if watching := ranks.rank == 0:
        watcher = threading.Thread(target=watch)
        watcher.start()
    home = layout.at_home(lambda: built(model(**WIDE, num_key_value_heads=8))).model
    ranks.barrier()
    copies = {"home": memory(processes) - before}
    ranks.barrier()
    freeze(home, spec)
    away = layout.place(home, spec)
    ranks.barrier()
    copies["and placed"] = memory(processes) - before
    ranks.barrier()
    done.set()
    if watching:
        watcher.join()
    size = sum(each.nbytes for each in home.parameters())
    assert sum(local(each).nbytes for each in away.parameters()) < size
    return {name: each / size for name, each in (copies | {"at most": max(most)}).items()}


@pytest.mark.slow
@pytest.mark.ddp
@pytest.mark.parametrize("world", [2, 4])
def test_processes_of_a_machine_hold_one_home(tmp_path: Path, world: int) -> None:
    """And with it their shares, which are one copy together. Before, there were as many homes as processes."""
    (found,) = on_ranks(world, [(weighed, ())], tmp_path)
    told = found[0]
    assert told["home"] == pytest.approx(1, abs=0.1), told
    assert told["and placed"] == pytest.approx(2, abs=0.25) and told["at most"] < 2.3, told


# --- a run ----------------------------------------------------------------------------------------------------------


def running(rank: int, port: int, world: int, runs: dict[Path, tuple[Any, bool]]) -> None:
    """A rank of several runs; without sharing where it is told so."""
    from sightline.train.parallel import layout

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    sharing = layout.shared
    for folder, (run, shares) in runs.items():
        layout.shared = sharing if shares else lambda make: (make(), True)
        train(run, folder)


@pytest.mark.slow
@pytest.mark.ddp
def test_a_run_is_to_the_bit_what_it_is_where_each_process_has_a_home(tmp_path: Path) -> None:
    """Batch norm that learns its statistics, a stage with kept features, averages, the best weights, answers."""
    first = {"name": "align", "learn": {"connector": "all"}, "steps": 4, "cache_features": True, "validate_every": 4}
    second = {"name": "see", "ema": 0.5, "steps": 8, "early_stop": {"patience": 9}, "validate_every": 4}
    path = table(tmp_path)
    stages = [recipe(path, stage=each).stages[0].model_dump(mode="json") for each in (first, second)]
    changes: Any = {"stages": stages, "model": convolutional(), "evaluate_after": {"align": {"data": "train"}}}
    changes["evaluate"] = {"data": "train", "validation": "train"}
    runs = {}
    for name, layout in {"fsdp": "fsdp", "tensor": {"tensor": 2}}.items():
        for shares in (True, False):
            runs[tmp_path / f"{name}-{shares}"] = (recipe(path, parallel=layout, **changes), shares)
    spawn(running, (free_port(), 2, runs), nprocs=2)
    for name in ("fsdp", "tensor"):
        one, other = (tmp_path / f"{name}-{shares}" for shares in (True, False))
        for kind in ("train", "validation"):
            assert losses(one, kind) == losses(other, kind) and len(losses(one)) == 12
        saved = [load_file(run / "checkpoints" / "latest" / "model.safetensors") for run in (one, other)]
        assert saved[0].keys() == saved[1].keys()
        assert all(torch.equal(each, saved[1][key]) for key, each in saved[0].items())
        for answers in ("after-align/predictions.jsonl", "predictions.jsonl"):
            assert (one / answers).read_text() == (other / answers).read_text()


def halfway(rank: int, port: int, folder: str) -> None:
    """A rank of a run that never ends: it stands still in its first step."""
    from sightline.train import loop

    def stand(*_: Any) -> None:
        (Path(folder) / f"there-{rank}").touch()
        time.sleep(600)

    loop.train_step = stand  # type: ignore[assignment]
    running(rank, port, 2, {Path(folder) / "run": (recipe(table(Path(folder)), parallel="fsdp"), True)})


@pytest.mark.slow
@pytest.mark.ddp
def test_who_is_killed_leaves_nothing_in_any_folder(tmp_path: Path) -> None:
    context = spawn(halfway, (free_port(), str(tmp_path)), nprocs=2, join=False)
    until = time.monotonic() + 300
    while len(list(tmp_path.glob("there-*"))) < 2:
        assert time.monotonic() < until
        time.sleep(0.1)
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in context.pids()]
    opened = [os.readlink(each) for pid in context.pids() for each in Path(f"/proc/{pid}/fd").iterdir()]
    for pid in context.pids():
        os.kill(pid, signal.SIGKILL)
    assert all("/memfd:sightline-" in each for each in maps)
    named = [each for each in ("\n".join(maps + opened)).splitlines() if "/dev/shm" in each or "sightline-" in each]
    assert all(each.endswith(" (deleted)") for each in named), named
    assert not [each for each in Path("/dev/shm").iterdir() if "sightline" in each.name]
