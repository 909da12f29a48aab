"""What sharing an image costs and saves: seconds a question and peak memory of the quickstart's model, in three ways.

    python benchmarks/shared_image.py [--steps 20] [--images 8]

1. rows    one sequence a question; the image is encoded for each of them
2. packed  one sequence an image; the image is encoded once, and its questions share its prefix
3. cached  as packed, on features that the frozen vision tower gave once

All three train connector and language tower under a frozen vision tower on the same questions. That their losses agree
is checked first. Each way is measured in a process of its own; memory is the growth of its resident set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch

from sightline.data.batch import Batch, Example
from sightline.data.dataset import read_rows
from sightline.data.encode import Encoder
from sightline.data.pack import pack
from sightline.losses.next_token import next_token
from sightline.models.build import build
from sightline.models.vlm import VLM
from sightline.recipe import load

WAYS = ("rows", "packed", "cached")
AGREE = 1e-5  # of the loss, relative: the same sums in another order
MAX_LENGTH = 128
WARM = 3  # steps before the clock runs


def parts(images: int) -> tuple[VLM, Encoder, list[list[Example]]]:
    """The quickstart's model with a frozen vision tower, and groups of examples: `images` pictures each."""
    recipe = load("quickstart")
    rows = read_rows(recipe.data["train"], "train").rows[:4000]
    texts = [part for row in rows for turn in row.turns for part in turn.parts if isinstance(part, str)]
    built = build(recipe.model, seed=0, texts=texts)
    for parameter in built.model.tower_parameters("vision"):
        parameter[1].requires_grad_(False)
    built.model.train()
    by_image: dict[str, list[Example]] = {}
    for row in rows:
        by_image.setdefault(row.images[0].key, []).append(built.encoder.encode(row))
    whole = iter(by_image.values())
    groups = []
    while chunk := list(islice(whole, images)):
        groups.append([example for examples in chunk for example in examples])
    return built.model, built.encoder, groups[:-1]


def batches(way: str, model: VLM, encoder: Encoder, groups: list[list[Example]]) -> Iterator[tuple[Batch, int]]:
    """A batch a group, made in this way, and its questions."""
    for examples in groups:
        sequences = pack(examples, "none" if way == "rows" else "image", MAX_LENGTH)
        batch = encoder.collate(sequences)
        if way == "rows":  # every row its own copy of the image
            assert batch.pixel_values is not None
            again = batch.pixel_values[batch.image_index]
            batch = replace(batch, pixel_values=again, image_index=torch.arange(len(again)))
        if way == "cached":
            assert batch.pixel_values is not None
            with torch.no_grad():
                features = model.encode_images(batch.pixel_values)
            batch = replace(batch, pixel_values=None, features=features)
        yield batch, len(examples)


def loss_of(model: VLM, batch: Batch) -> torch.Tensor:
    """The mean loss a supervised token."""
    total, count = next_token(*model(batch))
    return total / count


def check(images: int) -> float:
    """The largest relative difference of the first batch's loss between the three ways. Raises where it is large."""
    model, encoder, groups = parts(images)
    losses = []
    for way in WAYS:
        batch, _ = next(batches(way, model, encoder, groups))
        losses.append(float(loss_of(model, batch).detach()))
    print(f"losses of the first step: {dict(zip(WAYS, losses, strict=True))}")
    worst = max(abs(loss - losses[0]) / losses[0] for loss in losses)
    if worst > AGREE:
        raise SystemExit(f"the losses do not agree: {dict(zip(WAYS, losses, strict=True))}")
    return worst


def measure(way: str, steps: int, images: int) -> dict[str, float]:
    """Median seconds a question of `steps` optimizer steps, and the memory that they took above the model and data."""
    model, encoder, groups = parts(images)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ready = list(batches(way, model, encoder, groups[: steps + WARM]))
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here (man 5 proc)
    seconds = []
    for batch, questions in ready:
        start = time.perf_counter()
        loss_of(model, batch).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append((time.perf_counter() - start) / questions)
    peak = resident("VmHWM") - before
    return {"seconds": statistics.median(seconds[WARM:]), "mebibytes": peak / 1024, "steps": len(seconds) - WARM}


def resident(what: str) -> int:
    """KiB of this process's resident set: VmRSS now, VmHWM at its peak (Linux)."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what))


def main() -> None:
    """Check, measure each way in its own process, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--images", type=int, default=8, help="pictures a step")
    parser.add_argument("--way", choices=WAYS, help="measure this one here, and print JSON")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.way:
        print(json.dumps(measure(given.way, given.steps, given.images)))
        return
    print(f"losses agree to {check(given.images):.1e} (relative)")
    found = {}
    for way in WAYS:
        command = [sys.executable, __file__, "--steps", str(given.steps), "--images", str(given.images), "--way", way]
        found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"\n| way | ms a question | times as fast as rows | peak memory of the steps, MiB |\n|{'---|' * 4}")
    for way, seen in found.items():
        speed = found["rows"]["seconds"] / seen["seconds"]
        print(f"| {way} | {1e3 * seen['seconds']:.3f} | {speed:.2f} | {seen['mebibytes']:.0f} |")
    print(f"\nmedians of {int(found['rows']['steps'])} steps, {given.images} images a step, one thread")


if __name__ == "__main__":
    main()
