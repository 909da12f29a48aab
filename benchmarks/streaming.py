"""How fast tar shards are streamed, and in how much memory, beside plain webdataset.

    python benchmarks/streaming.py [--samples 4000 16000] [--bytes 20000] [--repeats 3] [--out streaming.md]

Shards of 1,000 samples are written to a temporary folder: `--bytes` random bytes as image and a short caption each, so
that nothing but reading is measured (no decoding). Every case is a fresh process that imports, reads its peak resident
memory (VmHWM; the baseline), opens the shards and reads one epoch. Samples a second are of the epoch without imports
and without counting the shards, which is told by itself; memory is the peak minus the baseline. Cases of one size run
right after one another, in turns, and each figure is the median of `--repeats` turns. The files are in the page cache
after the first turn: this measures code, not disks.

- ours: `Stream` of 1 and of 16 lanes, moved by up to 2,048 places, and not moved at all
- webdataset: `WebDataset(...)`, plain, and with `.shuffle(1024)`, which holds as many samples as ours does on average
- index: our map-style reader of the same shards, in the order of chance of an epoch: what streaming is to do without

"First sample" is the time from an opened data set to the first sample in the middle of the epoch: what resuming costs.
webdataset has no way to begin there, so it reads up to that place.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

PER_SHARD = 1000
SHUFFLE = 2048
CASES = ("ours, 1 lane", "ours, 16 lanes", "ours, not moved", "webdataset", "webdataset, shuffled", "index")


def peak_mb() -> float:
    """Most resident memory so far, in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise OSError("no VmHWM in /proc/self/status: this benchmark needs Linux")


def make_shards(folder: Path, samples: int, size: int) -> None:
    """`samples` samples of `size` random bytes in shards of PER_SHARD."""
    folder.mkdir()
    for first in range(0, samples, PER_SHARD):
        with tarfile.open(folder / f"pairs-{first // PER_SHARD:06d}.tar", "w") as tar:
            for number in range(first, min(first + PER_SHARD, samples)):
                for ending, content in ((".jpg", os.urandom(size)), (".txt", b"a caption of a few words")):
                    member = tarfile.TarInfo(f"{number:08}{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def ours(shards: Any, lanes: int, shuffle: int) -> Callable[[int], Iterator[Any]]:
    """Samples of one epoch from number `first` on, lanes taking turns."""
    from sightline.data.stream import Stream

    stream = Stream("bench", shards, 0, lanes, shuffle)

    def read(first: int) -> Iterator[Any]:
        reading = [stream.lane(lane, first // lanes) for lane in range(lanes)]
        for number in range(first, stream.total):
            yield next(reading[number % lanes])

    return read


def opened(case: str, folder: Path) -> tuple[Callable[[int], Iterator[Any]], float]:
    """A reader of one epoch, and the seconds that it took to open the shards."""
    from sightline.data.shards import find_shards
    from sightline.recipe.schema import DataSpec

    spec = DataSpec(reader="webdataset", path=str(folder / "*.tar"), stream={})
    started = time.perf_counter()
    if case.startswith("ours"):
        lanes, shuffle = {"ours, 1 lane": (1, SHUFFLE), "ours, 16 lanes": (16, SHUFFLE)}.get(case, (1, 0))
        return ours(find_shards(spec, "bench"), lanes, shuffle), time.perf_counter() - started
    if case == "index":
        from sightline.data.dataset import read_rows

        rows = read_rows(spec, "bench").rows
        order = random.Random(0).sample(range(len(rows)), len(rows))

        def read(first: int) -> Iterator[Any]:
            for i in order[first:]:
                (image,) = rows[i].images
                assert image.read is not None
                yield image.read()

        return read, time.perf_counter() - started
    import webdataset

    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = webdataset.WebDataset(urls, shardshuffle=len(urls), seed=0)
    data = data.shuffle(SHUFFLE // 2, initial=SHUFFLE // 2) if case.endswith("shuffled") else data
    return (lambda first: islice(iter(data), first, None)), time.perf_counter() - started


def measured(case: str, folder: Path) -> dict[str, float]:
    """One case in this process."""
    import torch  # noqa: F401  # all of them are imported before the baseline, whoever needs them
    import webdataset  # noqa: F401

    import sightline.data.dataset
    import sightline.data.stream  # noqa: F401

    base = peak_mb()
    read, opening = opened(case, folder)
    started = time.perf_counter()
    count = sum(1 for _ in read(0))
    seconds = time.perf_counter() - started
    peak = peak_mb() - base
    started = time.perf_counter()
    next(iter(read(count // 2)))
    first = time.perf_counter() - started
    return {"rate": count / seconds, "opening": opening, "peak": peak, "first": first, "count": count}


def turn(case: str, folder: Path) -> dict[str, float]:
    """One case in a fresh process."""
    command = [sys.executable, __file__, "--case", case, "--folder", str(folder)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    result: dict[str, float] = json.loads(ended.stdout.splitlines()[-1])
    return result


def lines(results: dict[tuple[int, str], list[dict[str, float]]]) -> Iterator[str]:
    """The table."""
    yield "| samples | reader | samples a second | peak memory, MB | opening, s | first sample in the middle, s |"
    yield "|---|---|---|---|---|---|"
    for (size, case), turns in results.items():
        assert all(each["count"] == size for each in turns), f"{case} read {turns[0]['count']} of {size}"
        middle = {key: statistics.median(each[key] for each in turns) for key in turns[0]}
        spread = f"{min(t['rate'] for t in turns):,.0f} to {max(t['rate'] for t in turns):,.0f}"
        yield (
            f"| {size:,} | {case} | {middle['rate']:,.0f} ({spread}) | {middle['peak']:.0f} | {middle['opening']:.2f} "
            f"| {middle['first']:.3f} |"
        )


def main() -> None:
    """Run all cases, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=[4000, 16000])
    parser.add_argument("--bytes", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.case:
        print(json.dumps(measured(told.case, told.folder)))
        return
    results: dict[tuple[int, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for size in told.samples:
            folder = Path(temporary) / str(size)
            make_shards(folder, size, told.bytes)
            turn(CASES[0], folder)  # not counted: it brings the files into the page cache
            for _ in range(told.repeats):
                for case in CASES:
                    results.setdefault((size, case), []).append(turn(case, folder))
    head = f"{datetime.date.today()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores, "
    head += f"{told.bytes:,} bytes an image, {told.repeats} turns; Python {platform.python_version()}"
    page = "\n".join([head, "", *lines(results), ""])
    print(page)
    if told.out:
        told.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
