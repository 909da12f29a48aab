"""What a contrastive loss costs: time and peak memory of forward and backward, beside open_clip's; and a cached batch.

    python benchmarks/contrastive.py [--sizes 1024 4096 8192] [--once 32768] [--ranks 1 2] [--out contrastive.md]

**Losses.** A case is a loss, a number of pairs over all ranks and a number of ranks; its features are unit vectors of
width 512 in fp32, one thread a rank, ranks over gloo.

- ours: `info_nce` (on ranks: `info_nce_apart`), `pairwise_sigmoid` (on ranks: around the ring)
- open_clip: `ClipLoss` (on ranks with local_loss and gather_with_grad, its setting with the right gradients for the
  least work) and `SigLipLoss`, from the installed package's file; left out with a message where it is not installed
- plain: the formula on whole matrices

*Time* is taken in one process a rank that holds all ways and takes them by turns, so that a machine that slows down
slows all: medians of wall and of processor time (of the busiest rank, which other work disturbs less), and the median
over rounds of each way's processor time over ours. *Memory* is taken in a process of its own for each way: the peak
(VmHWM of /proc/self/status) after a run minus that before. Sizes of --once are run once a way, on one rank, in that
process alone; their ratio is of single runs.

**Cached batches.** A step of a small CLIP by `PairLosses` on growing batches: in one piece, and in micro-batches whose
embeddings are made twice (Gao et al. 2021), likewise.

A case whose matrices would not fit in the memory that is free, or that takes longer than --limit seconds, is said so.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib.util
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from cached_batch import MICRO, cached_steps

WIDTH = 512
LOSSES = ("info_nce", "sigmoid")
WAYS = ("ours", "open_clip", "plain")
# fp32 matrices of all own by all pairs that are alive at the peak of a backward pass, at least
MATRICES = {"plain": 4, "open_clip": 4, "ours": 0}
Steps = dict[str, Callable[[], Any]]


def peak_mb() -> float:
    """Most resident memory so far, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM in /proc/self/status: this benchmark needs Linux")


def free_mb() -> float:
    """Memory that is free, in MB."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 1024
    return 0.0


def open_clip_module() -> Any:
    """`open_clip/loss.py` by file: the package itself imports torchvision."""
    package = importlib.util.find_spec("open_clip")
    assert package is not None and package.origin is not None
    spec = importlib.util.spec_from_file_location("open_clip_loss", Path(package.origin).parent / "loss.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def loss_of(loss: str, way: str, ranks: Any) -> Callable[..., Any]:
    """(image, text, scale, bias) -> this rank's mean over its own pairs."""
    import torch

    from sightline.losses.contrastive import info_nce, info_nce_apart
    from sightline.losses.sigmoid import pairwise_sigmoid
    from sightline.train.parallel.gather import gather, log_sum_exp
    from sightline.train.parallel.ring import ring

    if way == "open_clip":
        module, places = open_clip_module(), {"rank": ranks.rank, "world_size": ranks.world}
        if loss == "info_nce":
            theirs = module.ClipLoss(local_loss=True, gather_with_grad=True, **places)
            return lambda image, text, scale, bias: theirs(image, text, scale)
        return module.SigLipLoss(**places)

    def whole(image: Any, text: Any, scale: Any, bias: Any) -> Any:
        found = gather(ranks, image, text)
        all_image, all_text = found.tensors
        own = torch.arange(found.start, found.start + len(image))
        if loss == "info_nce":
            forth, back = scale * image @ all_text.T, scale * text @ all_image.T
            return (torch.nn.functional.cross_entropy(forth, own) + torch.nn.functional.cross_entropy(back, own)) / 2
        logits = scale * image @ all_text.T + bias
        sign = torch.full_like(logits, -1.0)
        sign[torch.arange(len(image)), own] = 1
        return -torch.nn.functional.logsigmoid(sign * logits).sum() / len(image)

    def contrastive(image: Any, text: Any, scale: Any, bias: Any) -> Any:
        if ranks.world == 1:
            total, count = info_nce(image, text, image, text, scale)
        else:
            found = gather(ranks, text)
            join = functools.partial(log_sum_exp, ranks)
            total, count = info_nce_apart(image, found.tensors[0], scale, join, own=found.start)
        return total / count

    def sigmoid(image: Any, text: Any, scale: Any, bias: Any) -> Any:
        blocks = [
            pairwise_sigmoid(image, visiting, scale, bias, own=0 if source == ranks.rank else None)[0]
            for source, visiting in ring(text, ranks)
        ]
        return torch.stack(blocks).sum() / len(image)

    return whole if way == "plain" else contrastive if loss == "info_nce" else sigmoid


def loss_steps(loss: str, ways: list[str], pairs: int, ranks: Any) -> Steps:
    """A forward and backward pass of each way, which gives this rank's mean loss."""
    import torch

    torch.manual_seed(ranks.rank)
    image, text = (torch.nn.functional.normalize(torch.randn(pairs // ranks.world, WIDTH), dim=1) for _ in range(2))
    scale, bias = torch.tensor(1 / 0.07), torch.tensor(-10.0)
    leaves = [x.requires_grad_() for x in (image, text, scale, bias)]

    def step(mean: Callable[..., Any]) -> float:
        for leaf in leaves:
            leaf.grad = None
        value = mean(*leaves)
        value.backward()
        return float(value.detach())

    means = {way: loss_of(loss, way, ranks) for way in ways}
    small = [x.detach()[:8].requires_grad_() for x in (image, text)]
    for mean in means.values():  # libraries are loaded and connections made before anything is measured
        mean(*small, scale, bias).backward()
    return {way: functools.partial(step, mean) for way, mean in means.items()}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own. With one way: its peak MB. With several: the seconds of each round of each."""
    import torch

    from sightline.train.parallel.ranks import joined_ranks

    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        ways, pairs = case["ways"], case["pairs"]
        made = cached_steps(ways, pairs) if case["loss"] == "step" else loss_steps(case["loss"], ways, pairs, ranks)
        before, told = peak_mb(), {way: {"wall": [], "cpu": []} for way in ways}
        wall, cpu = time.perf_counter(), time.process_time()
        values = {way: step() for way, step in made.items()}
        if len(ways) == 1:
            (way,) = ways
            told[way] = {"wall": [time.perf_counter() - wall], "cpu": [time.process_time() - cpu]}
            return told | {"mb": peak_mb() - before, "value": ranks.sum([values[way]])[0] / ranks.world}
        until = time.monotonic() + case["seconds"]
        while ranks.sum([float(time.monotonic() > until)])[0] == 0 or not told[ways[0]]["wall"]:
            for way, step in made.items():
                ranks.barrier()
                wall, cpu = time.perf_counter(), time.process_time()
                step()
                told[way]["cpu"].append(time.process_time() - cpu)
                told[way]["wall"].append(time.perf_counter() - wall)
            if len(told[ways[0]]["wall"]) == case["rounds"]:
                break
        return told


def in_processes(case: dict[str, Any], world: int, limit: float) -> list[dict[str, Any]] | str:
    """What each rank told, or why there is nothing to tell."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    common = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore::FutureWarning", __file__, "--case", json.dumps(case)],
            env=common | {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    deadline = time.monotonic() + limit
    try:
        return [json.loads(p.communicate(timeout=max(1, deadline - time.monotonic()))[0]) for p in started]
    except subprocess.TimeoutExpired:
        return f"longer than {limit:.0f} s"
    except json.JSONDecodeError:
        return "failed (see above)"
    finally:
        for process in started:
            process.kill()
            process.wait()


def run_case(
    loss: str, ways: list[str], pairs: int, world: int, args: argparse.Namespace, once: bool = False
) -> list[list[str]]:
    """Rows of a table: way, wall ms, CPU ms, CPU over the first way's, peak MB, value."""
    needed = {way: MATRICES.get(way, 0) * pairs * pairs * 4 / 2**20 for way in ways}
    fitting = [way for way in ways if needed[way] < 0.7 * free_mb()]
    case = {"loss": loss, "ways": fitting, "pairs": pairs, "seconds": args.seconds, "rounds": args.rounds}
    alone = {way: in_processes(case | {"ways": [way]}, world, args.limit) for way in fitting}
    turns = None if once else in_processes(case, world, args.limit)
    rows: list[list[str]] = []
    for way in ways:
        if way not in fitting:
            rows.append([way, f"does not fit (at least {needed[way] / 1024:.0f} GB)", "", "", "", ""])
            continue
        held = alone[way]
        memory = [held, ""] if isinstance(held, str) else [_most(held, "mb"), f"{held[0]['value']:.6f}"]
        timed, first = turns or held, turns or alone[fitting[0]]
        if isinstance(timed, str) or isinstance(first, str):
            rows.append([way, str(timed), "", "", *memory])
            continue
        busy = {way: _busiest(timed, way, "cpu")} | {fitting[0]: _busiest(first, fitting[0], "cpu")}
        ratio = statistics.median(own / other for own, other in zip(busy[way], busy[fitting[0]], strict=True))
        wall = statistics.median(_busiest(timed, way, "wall"))
        rows.append([way, f"{wall * 1e3:.0f}", f"{statistics.median(busy[way]) * 1e3:.0f}", f"{ratio:.2f}", *memory])
    return rows


def _most(told: list[dict[str, Any]], key: str) -> str:
    return f"{max(one[key] for one in told):.0f}"


def _busiest(told: list[dict[str, Any]], way: str, clock: str) -> list[float]:
    """Of each round, the seconds of the rank that took longest."""
    return [max(each) for each in zip(*(one[way][clock] for one in told), strict=True)]


def tables(args: argparse.Namespace) -> str:
    """All tables, printed as they come."""
    ways = [way for way in args.ways if way != "open_clip" or importlib.util.find_spec("open_clip")]
    lines = [] if ways == args.ways else ["open_clip is not installed (pip install --no-deps open_clip_torch)."]

    def tell(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    for loss in args.losses:
        tell(f"\n## {loss}\n")
        tell("| ranks | pairs | way | wall ms | CPU ms | CPU, times ours | peak MB | mean loss |")
        tell("|---|---|---|---|---|---|---|---|")
        for world in args.ranks:
            for pairs in args.sizes:
                for row in run_case(loss, ways, pairs, world, args):
                    tell(f"| {world} | {pairs} | {' | '.join(row)} |")
        for pairs in args.once:
            for row in run_case(loss, ways, pairs, 1, args, once=True):
                tell(f"| 1 | {pairs}, once | {' | '.join(row)} |")
    if args.steps:
        tell(f"\n## A step of a small CLIP, in one piece and in micro-batches of {MICRO}\n")
        tell("| pairs | way | wall ms | CPU ms | CPU, times one piece | peak MB | loss |")
        tell("|---|---|---|---|---|---|---|")
        for pairs in args.steps:
            for row in run_case("step", ["one piece", "cached"], pairs, 1, args):
                tell(f"| {pairs} | {' | '.join(row)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=LOSSES)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--once", type=int, nargs="*", default=[])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, nargs="*", default=[256, 512, 1024, 2048])
    parser.add_argument("--seconds", type=float, default=20.0, help="of rounds in a case")
    parser.add_argument("--rounds", type=int, default=15, help="at most, in a case")
    parser.add_argument("--limit", type=float, default=300.0, help="seconds a process may take")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "contrastive.md")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case)))
        return
    import torch

    load = [os.getloadavg()[1]]
    found = tables(args)
    load.append(os.getloadavg()[1])
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    title = f"# Contrastive losses, forward and backward\n\n{datetime.date.today()}, {machine}, one thread a rank."
    between = f"Load average at the start {load[0]:.1f}, at the end {load[1]:.1f}."
    args.out.write_text(f"{title} {between}\nHow it is measured: `benchmarks/contrastive.py`.\n{found}\n")


if __name__ == "__main__":
    main()
