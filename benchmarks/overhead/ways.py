"""What a benchmark script is watched by, and its clock. `WAY` and `STEPS` in the environment say how and how long.

`TURN`, two numbers of open files: the process trains a few steps each time that it reads a byte from the first, and
then writes one to the second. So several trainings share one machine by turns, and what slows it slows them all.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack, suppress
from typing import Any

WAY, STEPS = os.environ.get("WAY", "bare"), int(os.environ.get("STEPS", "1600"))
TURN = [int(one) for one in os.environ.get("TURN", "").split()]
BLOCK = 4  # steps of a turn
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
        self.each: list[float] = []
        self._began = 0.0

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
        wait()
        self._began = time.perf_counter()
        return self

    def step(self) -> None:
        """A step is over. What wandb.watch has gathered goes out with what the loop logs by itself."""
        if self._log is not None and (len(self.each) + 1) % LOGGED == 0:
            self._log.log({"step": len(self.each) + 1})
        now = time.perf_counter()
        self.each.append(now - self._began)
        if TURN and len(self.each) % BLOCK == 0:
            with suppress(BrokenPipeError):  # that one is through
                os.write(TURN[1], b".")
            if len(self.each) < STEPS:
                wait()
                now = time.perf_counter()
        self._began = now

    def __exit__(self, *error: Any) -> None:
        began = time.perf_counter()
        self._stack.__exit__(*error)
        outside = self._outside + time.perf_counter() - began
        each = [round(seconds, 7) for seconds in self.each]
        print("\nTIMES " + json.dumps({"each": each, "outside": outside}), flush=True)


def tiny_llava() -> Any:
    """A LLaVA of half a million parameters, for images of 32 x 32; its placeholder is 3."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16
    )
    text = LlamaConfig(
        vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4,
    )  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=3, vision_feature_layer=-1)
    return LlavaForConditionalGeneration(config)


def wait() -> None:
    """For the others, where several take turns."""
    if TURN and not os.read(TURN[0], 1):
        raise SystemExit("the training before this one is gone")


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
