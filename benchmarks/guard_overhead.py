"""What watching costs: paired runs of three small trainings, bare and watched.

    python benchmarks/guard_overhead.py [--pairs 7] [--traincheck /path/to/a/venv/with/traincheck]

Every measurement is a process of its own that trains, throws its first steps away and says the median seconds a step.
A pair is a bare run and a watched one right after the other; what is reported is the median over pairs of watched over
bare, so a machine that slows down during the benchmark slows both. Three ways of watching:

- ours: `sightline.attach` with the default budget of 2 % (under the HF Trainer too: any host pays this or less)
- histograms: one `torch.histc` of each gradient every step, as `wandb.watch(log="gradients")` takes them
- traincheck: `traincheck-collect` with its defaults ("full"), where a virtual environment with it is given

Wall time of a whole process, imports left out, is reported for TrainCheck alone, which instruments the script's source.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

WAYS = ("bare", "ours", "histograms")
WARM = 0.3  # of the steps: the first ones pay for memory, and ours for the preflight, which is reported by itself


def mlp(steps: int) -> tuple[Any, Any, Callable[[], None]]:
    """(a) 2 layers of 256, batch 128."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = torch.randn(128, 64), torch.randint(0, 10, (128,))

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return model, optimizer, step


def llava(steps: int) -> tuple[Any, Any, Callable[[], None]]:
    """(b) a LLaVA of a few million parameters, 8 images of 64 x 64 a step."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=16
    )
    text = LlamaConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4,
    )  # fmt: skip
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=text, image_token_id=3, vision_feature_layer=-1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids = torch.cat([torch.full((8, 16), 3), torch.randint(10, 1000, (8, 32))], dim=1)
    labels = ids.masked_fill(torch.arange(48) < 32, -100)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    pixels = torch.randn(8, 3, 64, 64)

    def step() -> None:
        optimizer.zero_grad()
        model(pixel_values=pixels, **batch).loss.backward()
        optimizer.step()

    return model, optimizer, step


def llama(steps: int) -> tuple[Any, Any, Callable[[], None]]:
    """(c) a Llama under transformers' Trainer; a step is one call of `training_step` and what follows it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    rows = [{"input_ids": ids, "labels": ids} for ids in torch.randint(0, 1000, (64, 64))]
    times: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            times.append(time.perf_counter())

    arguments = TrainingArguments(
        output_dir=tempfile.mkdtemp(), max_steps=steps, per_device_train_batch_size=8, save_strategy="no",
        report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows, callbacks=[Clock()])

    def everything() -> None:
        trainer.train()

    everything.times = times  # type: ignore[attr-defined]
    return model, None, everything


MODELS = {"mlp": (mlp, 600), "llava": (llava, 60), "llama-trainer": (llama, 60)}


def histograms(model: Any) -> None:
    """Hooks as those of `wandb.watch`: 64 bins of every gradient, every step, read at once."""
    import torch

    def bins(parameter: Any) -> None:
        grad = parameter.grad.detach().flatten().float()
        low, high = grad.min().item(), grad.max().item()
        torch.histc(grad, bins=64, min=low, max=high if high > low else low + 1).tolist()

    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(bins)


def measure(name: str, way: str) -> dict[str, float]:
    """Train here; median seconds a step after the warm-up, and the seconds that attaching and closing took."""
    import torch

    torch.set_num_threads(1)
    make, steps = MODELS[name]
    model, optimizer, step = make(steps)
    guard, began = None, time.perf_counter()
    if way == "ours":
        import sightline

        guard = sightline.attach(model, optimizer, on_finding=None)
    elif way == "histograms":
        histograms(model)
    ready = time.perf_counter() - began
    times = getattr(step, "times", None)
    if times is not None:
        step()
    else:
        times = [time.perf_counter()]
        for _ in range(steps):
            step()
            times.append(time.perf_counter())
    each = [b - a for a, b in pairwise(times)]
    end = time.perf_counter()
    if guard is not None:
        guard.close()
    late = each[int(WARM * len(each)) :]
    return {
        "median": statistics.median(late),
        "mean": statistics.fmean(late),
        "early": sum(each[: int(WARM * len(each))]),
        "outside": ready + time.perf_counter() - end,
    }


def child(name: str, way: str) -> dict[str, float]:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "--model", name, "--way", way]
    said = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    return dict(json.loads(said.stdout.splitlines()[-1]))


TRAINCHECK_SCRIPT = """
import sys, time
sys.path.insert(0, {folder!r})
import torch
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.ReLU(), torch.nn.Linear(256, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
x, y = torch.randn(128, 64), torch.randint(0, 10, (128,))
times = [time.perf_counter()]
for step in range({steps}):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    times.append(time.perf_counter())
each = sorted(b - a for a, b in zip(times[:-1], times[1:]))
print("MEDIAN", each[len(each) // 2])
"""


def traincheck(venv: Path, steps: int = 40) -> tuple[float, float]:
    """Median seconds a step of the MLP: bare, and under `traincheck-collect`."""
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "train.py"
        script.write_text(TRAINCHECK_SCRIPT.format(folder=place, steps=steps), encoding="utf-8")
        collect = [str(venv / "bin/traincheck-collect"), "--pyscript", str(script), "--models-to-track", "model"]
        medians = []
        for command in ([str(venv / "bin/python"), str(script)], [*collect, "--output-dir", str(Path(place) / "out")]):
            said = subprocess.run(command, check=True, capture_output=True, text=True, cwd=place)
            lines = [line for line in (said.stdout + said.stderr).splitlines() if "MEDIAN" in line]
            medians.append(float(lines[-1].split("MEDIAN ")[1].split("\x1b")[0]))
    return medians[0], medians[1]


def main() -> None:
    """Measure pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--only", choices=sorted(MODELS))
    parser.add_argument("--traincheck", type=Path, help="a virtual environment with traincheck")
    parser.add_argument("--model", choices=sorted(MODELS))
    parser.add_argument("--way", choices=WAYS)
    given = parser.parse_args()
    if given.way:
        print(json.dumps(measure(given.model, given.way)))
        return
    print(f"| model | way | bare ms a step | watched / bare: median of {given.pairs} pairs | least | most | once, s |")
    print("|---|---|---|---|---|---|---|")
    for name in [given.only] if given.only else list(MODELS):
        for way in WAYS[1:]:
            pairs = [(child(name, "bare"), child(name, way)) for _ in range(given.pairs)]
            ratio = sorted(watched["mean"] / bare["mean"] for bare, watched in pairs)
            bare_ms = 1e3 * statistics.median(bare["median"] for bare, _ in pairs)
            once = statistics.median(w["outside"] + w["early"] - b["early"] for b, w in pairs)
            middle = statistics.median(ratio)
            print(f"| {name} | {way} | {bare_ms:.3f} | {middle:.3f} | {ratio[0]:.3f} | {ratio[-1]:.3f} | {once:.2f} |")
    if given.traincheck:
        bare, watched = traincheck(given.traincheck)
        print(f"| mlp | traincheck full | {1e3 * bare:.3f} | {watched / bare:.1f} | one pair | | |")


if __name__ == "__main__":
    main()
