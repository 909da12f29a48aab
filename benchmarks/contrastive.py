"""What a contrastive loss costs: time and peak memory of forward and backward, beside open_clip's.

    python benchmarks/contrastive.py [--sizes 1024 4096 8192] [--ranks 1 2] [--repeats 3] [--out contrastive.md]

Every case is a fresh process (on two ranks, two processes over gloo), one thread each, that makes unit vectors of width
512 in fp32, reads its peak resident memory (VmHWM of /proc/self/status; the baseline), then runs the loss forward and
backward. Memory is the peak after one run minus the baseline; it holds gradients and whatever the loss keeps. Time is
the median of the later repeats; CPU seconds, which other work on the machine disturbs less, are the busiest rank's.
Cases of one size run right after one another, so that a machine that slows down slows all. Sizes count pairs over all
ranks.

- ours: `info_nce`, `pairwise_sigmoid` (on ranks: gathered, or around the ring)
- plain: the formula on whole matrices, without chunks
- open_clip: `ClipLoss` (on ranks with local_loss and gather_with_grad, its setting with the right gradients for the
  least work) and `SigLipLoss`, from the installed package's file; left out with a message where it is not installed

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

WIDTH = 512
LOSSES = ("info_nce", "sigmoid")
WAYS = ("ours", "plain", "open_clip")
# fp32 matrices of all own by all pairs that are alive at the peak of a backward pass, at least
MATRICES = {"plain": 4, "open_clip": 4, "ours": 0}


def peak_mb() -> float:
    """Most resident memory so far, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM in /proc/self/status: this benchmark needs Linux")


def free_mb() -> float:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 1024
    return 0.0


def open_clip_module() -> Any:
    """`open_clip/loss.py` by file, or None: the package itself imports torchvision."""
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        return None
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


def measure(loss: str, way: str, pairs: int, repeats: int) -> dict[str, float]:
    """In a process of its own: median seconds, MB above the baseline, and the loss, to see that all agree."""
    import torch

    from sightline.train.parallel.ranks import joined_ranks

    torch.set_num_threads(1)
    with joined_ranks("cpu") as ranks:
        torch.manual_seed(ranks.rank)
        image, text = (torch.nn.functional.normalize(torch.randn(pairs // ranks.world, WIDTH), dim=1) for _ in range(2))
        scale, bias = torch.tensor(1 / 0.07), torch.tensor(-10.0)
        leaves = [x.requires_grad_() for x in (image, text, scale, bias)]
        step = loss_of(loss, way, ranks)
        small = [x.detach()[:8].requires_grad_() for x in (image, text)]
        step(*small, scale, bias).backward()  # libraries are loaded and connections made before memory is read
        before, seconds, busy = peak_mb(), [], []
        for _ in range(repeats):
            for leaf in leaves:
                leaf.grad = None
            ranks.barrier()
            start, cpu = time.perf_counter(), time.process_time()
            value = step(*leaves)
            value.backward()
            seconds.append(time.perf_counter() - start)
            busy.append(time.process_time() - cpu)
        mean = ranks.sum([value.item()])[0] / ranks.world
        return {
            "seconds": statistics.median(seconds[1:] or seconds),
            "cpu": statistics.median(busy[1:] or busy),
            "mb": peak_mb() - before,
            "loss": mean,
        }


def run_case(loss: str, way: str, pairs: int, world: int, repeats: int, limit: float) -> dict[str, float] | str:
    """One row of the table, or why there is none."""
    needed = MATRICES[way] * pairs * pairs * 4 / 2**20  # all ranks are on this machine
    if needed > 0.9 * free_mb():
        return f"does not fit (at least {needed / 1024:.0f} GB)"
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [sys.executable, __file__, "--case", loss, way, str(pairs), str(repeats)]
    common = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            command,
            env=common | {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    deadline = time.monotonic() + limit
    try:
        told = [json.loads(p.communicate(timeout=max(1, deadline - time.monotonic()))[0]) for p in started]
    except subprocess.TimeoutExpired:
        return f"longer than {limit:.0f} s"
    except json.JSONDecodeError:
        return "failed (see above)"
    finally:
        for process in started:
            process.kill()
            process.wait()
    return {key: max(answer[key] for answer in told) for key in ("seconds", "cpu", "mb", "loss")}


def table(sizes: list[int], worlds: list[int], repeats: int, limit: float) -> str:
    ways = WAYS if importlib.util.find_spec("open_clip") else WAYS[:2]
    lines = [
        "| loss | ranks | pairs | way | s | times ours | CPU s | peak MB | mean loss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for loss in LOSSES:
        for world in worlds:
            for pairs in sizes:
                ours: float | None = None
                for way in ways:
                    found = run_case(loss, way, pairs, world, repeats, limit)
                    head = f"| {loss} | {world} | {pairs} | {way} "
                    if isinstance(found, str):
                        lines.append(f"{head}| {found} | | | | |")
                    else:
                        ours = found["seconds"] if way == "ours" else ours
                        times = f"{found['seconds'] / ours:.2f}" if ours else ""
                        figures = f"{found['cpu']:.3f} | {found['mb']:.0f} | {found['loss']:.6f}"
                        lines.append(f"{head}| {found['seconds']:.3f} | {times} | {figures} |")
                    print(lines[-1], flush=True)
    if len(ways) < len(WAYS):
        lines.append("\nopen_clip is not installed (pip install --no-deps open_clip_torch): left out.")
        print(lines[-1])
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096, 8192])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a case may take")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "contrastive.md")
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measure(args.case[0], args.case[1], int(args.case[2]), int(args.case[3]))))
        return
    import torch

    rows = table(args.sizes, args.ranks, args.repeats, args.limit)
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    title = f"# Contrastive losses, forward and backward\n\n{datetime.date.today()}, {machine}, one thread a rank."
    args.out.write_text(
        f"{title} Load average when done: {load}.\nHow it is measured: `benchmarks/contrastive.py`.\n\n{rows}\n"
    )


if __name__ == "__main__":
    main()
