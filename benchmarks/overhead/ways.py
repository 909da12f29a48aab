"""What a benchmark script is watched by, and its clock. `WAY` and `STEPS` in the environment say how and how long."""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from typing import Any

WAY, STEPS = os.environ.get("WAY", "bare"), int(os.environ.get("STEPS", "1600"))
BINS = 64  # as wandb.watch
LOGGED = 50  # steps: a loop of milliseconds does not log each


class Clock:
    """Times each step and, apart, what making and closing the watcher takes. Used around a loop::

        with Clock(model, optimizer) as clock:
            for batch in batches:
                ...
                clock.step()

    Prints one line of JSON at the end: seconds of each step, and those spent outside of steps.
    """

    def __init__(self, model: Any, optimizer: Any = None) -> None:
        self._given, self._stack, self._outside = (model, optimizer), ExitStack(), 0.0
        self._log: Any = None
        self.times: list[float] = []

    def __enter__(self) -> Clock:
        began = time.perf_counter()
        model, optimizer = self._given
        if WAY == "attach":
            import sightline

            self._stack.enter_context(sightline.attach(model, optimizer, on_finding=None))
        elif WAY == "histograms":
            histograms(model)
        elif WAY == "wandb":
            self._log = self._stack.enter_context(offline(model))
        self._outside = time.perf_counter() - began
        self.times.append(time.perf_counter())
        return self

    def step(self) -> None:
        """A step is over. What wandb.watch has gathered goes out with what the loop logs by itself."""
        if self._log is not None and len(self.times) % LOGGED == 0:
            self._log.log({"step": len(self.times)})
        self.times.append(time.perf_counter())

    def __exit__(self, *error: Any) -> None:
        began = time.perf_counter()
        self._stack.__exit__(*error)
        outside = self._outside + time.perf_counter() - began
        each = [round(b - a, 7) for a, b in zip(self.times, self.times[1:], strict=False)]
        print("\nTIMES " + json.dumps({"each": each, "outside": outside}), flush=True)


def histograms(model: Any) -> None:
    """64 bins of every gradient at every step, as wandb.watch makes them, but with one read of the range."""
    import torch

    def bins(parameter: Any) -> None:
        grad = parameter.grad.detach().flatten().float()
        low, high = torch.stack([grad.min(), grad.max()]).tolist()
        torch.histc(grad, bins=BINS, min=low, max=high if high > low else low + 1).tolist()

    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(bins)


def offline(model: Any) -> Any:
    """A run of W&B that writes to a folder, with `wandb.watch` as it is by default: gradients, every 1,000 steps."""
    import tempfile

    import wandb

    settings = wandb.Settings(console="off", silent=True)
    run = wandb.init(mode="offline", project="overhead", dir=tempfile.mkdtemp(), settings=settings)
    run.watch(model)
    return run
