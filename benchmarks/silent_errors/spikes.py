"""The simple detector that many teams have: is a loss or a gradient norm not finite, a spike, or not falling?

    python spikes.py SCRIPT    prints {"verdict": null | "...", "step": n}

Losses are those that the script prints ("step n loss x"); gradient norms are read by torch's public optimizer hook.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import re
import runpy
import statistics
import sys

WINDOW = 10  # steps that a new value is compared with
SPIKE = 10.0  # median absolute deviations above the window's median: a robust z-score of 6.7
FACTOR = 2.0  # and twice the median, since the deviation of a quiet window is near 0
PATIENCE = 0.02  # the last quarter's mean loss should be at least this much below the first quarter's


def judge(losses: list[float], norms: list[float]) -> tuple[str, int] | None:
    """What is first noticed and at which step (from 1), or None."""
    for name, values in (("loss", losses), ("gradient norm", norms)):
        for at, value in enumerate(values):
            if not math.isfinite(value):
                return f"{name} is {value}", at + 1
            window = values[max(0, at - WINDOW) : at]
            if len(window) == WINDOW:
                middle = statistics.median(window)
                spread = statistics.median(abs(v - middle) for v in window)
                if value > middle + SPIKE * spread and value > FACTOR * abs(middle):
                    return f"{name} spike {value:.3g} over {middle:.3g}", at + 1
    quarter = len(losses) // 4
    if quarter and statistics.fmean(losses[-quarter:]) > (1 - PATIENCE) * statistics.fmean(losses[:quarter]):
        return "loss does not fall", len(losses)
    return None


def main(script: str) -> None:
    """Run the script and judge it."""
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    norms: list[float] = []

    def read(optimizer: object, args: object, kwargs: object) -> None:
        grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if grads:
            norms.append(math.sqrt(sum(float(g.norm()) ** 2 for g in grads)))

    register_optimizer_step_pre_hook(read)
    said = io.StringIO()
    sys.argv = [script]
    with contextlib.redirect_stdout(said), contextlib.suppress(Exception):
        runpy.run_path(script, run_name="__main__")
    losses = [float(x) for x in re.findall(r"^step \d+ loss (\S+)", said.getvalue(), re.MULTILINE)]
    if losses:  # of several ranks, the first prints them
        verdict = judge(losses, norms)
        print(
            json.dumps({"verdict": verdict[0] if verdict else None, "step": verdict[1] if verdict else None}),
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1])
