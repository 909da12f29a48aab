"""What watching costs, with the noise of the machine and of processes taken out: two equal LLaVAs in one process.

    python benchmarks/overhead/twins.py [--steps 1800] [--bare]

One is watched by `sightline.attach` with its default budget, the other is not; they take steps by turns, so that each
watched step has a bare one right beside it. Told of the steps after the guard's opening (1,024): the median over steps
of what one took to what its neighbour took, and the same of their sums. `--bare` watches neither: that is noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import torch
from ways import tiny_llava

OPENING = 1024  # steps, as in src/sightline/attach/pace.py
PATCHES = (32 // 16) ** 2
PARTS = ("forward", "backward", "step", "all")


def made() -> tuple[Any, torch.optim.Optimizer]:
    """The model of `llava.py`, and its optimizer."""
    model = tiny_llava()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-4)


def step(model: Any, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """Seconds of the parts of one step on two images of 32 x 32 and 24 words."""
    ids = torch.cat([torch.full((2, PATCHES), 3), torch.randint(10, 1000, (2, 24))], dim=1)
    labels = ids.masked_fill(torch.arange(ids.shape[1]) < PATCHES + 12, -100)
    pixels, mask = torch.randn(2, 3, 32, 32), torch.ones_like(ids)
    optimizer.zero_grad()
    times = [time.perf_counter()]
    loss = model(input_ids=ids, attention_mask=mask, labels=labels, pixel_values=pixels).loss
    times.append(time.perf_counter())
    loss.backward()
    times.append(time.perf_counter())
    optimizer.step()
    times.append(time.perf_counter())
    each = [after - before for before, after in pairwise(times)]
    return dict(zip(PARTS, (*each, sum(each)), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--bare", action="store_true", help="watch neither")
    given = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    watched, bare = made(), made()
    import sightline

    with nullcontext() if given.bare else sightline.attach(*watched, on_finding=None):
        pairs = []
        for number in range(given.steps):
            turn = [step(*one) for one in ((watched, bare), (bare, watched))[number % 2]]
            pairs.append(turn if number % 2 == 0 else turn[::-1])
    late = pairs[OPENING:] or pairs
    for part in PARTS:
        ratio = statistics.median(one[part] / other[part] for one, other in late)
        whole = sum(one[part] for one, _ in late) / sum(other[part] for _, other in late)
        own = 1e3 * statistics.median(other[part] for _, other in late)
        print(
            f"{part:9}{own:7.2f} ms bare   median step {100 * (ratio - 1):+.1f} %   in sum {100 * (whole - 1):+.1f} %"
        )


if __name__ == "__main__":
    main()
