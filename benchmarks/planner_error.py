"""How far is `sightline plan` from what a step takes? Peaks and state, beside the public estimators.

    python benchmarks/planner_error.py [--device auto] [--big] [--ranks 4]

A small VLM (CLIP-like tower, MLP, Llama) in three sizes and four settings takes one real step. On a CPU the peak is
that of `torch.distributed._tools.mem_tracker.MemTracker` beyond weights, from the forward pass to the end of the
backward pass; on CUDA it is `max_memory_allocated` beyond what was allocated before (--big: sizes that fill some GiB).
`plan` is the rehearsal of the same step on fake tensors, made before it. State is what the process holds after AdamW's
first step: weights, buffers, gradients, moments. *DeepSpeed* is its ZeRO-2 formula for one GPU (2P + 18P bytes) and
*accelerate* what `accelerate estimate-memory` calls training with Adam (four times the weights): both count all
parameters, whether they learn or not.

--ranks: instead of peaks, what rank 0 of so many gloo processes holds under DeepSpeed in bf16, beside DeepSpeed's
own estimators (`estimate_zero2_model_states_mem_needs`, `estimate_zero3_model_states_mem_needs`, nothing offloaded) and
`accelerate`'s, which knows no ranks.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sightline.plan.layouts import World, state_of  # noqa: E402
from sightline.plan.memory import state_bytes  # noqa: E402
from sightline.plan.sample import RowShape  # noqa: E402
from sightline.plan.trace import rehearse  # noqa: E402
from sightline.train.rounding import RoundedAdamW, halve  # noqa: E402
from tests.plan import rehearsed  # noqa: E402

SIZES: dict[str, dict[str, Any]] = {  # width, depth, words, and the rows: tokens, supervised, how many
    "small": {"model": {"width": 64, "depth": 2, "words": 500}, "rows": (48, 20, 2)},
    "middle": {"model": {"width": 96, "depth": 3, "words": 1000}, "rows": (96, 60, 3)},
    "large": {"model": {"width": 128, "depth": 4, "words": 2000}, "rows": (128, 100, 4)},
}
BIG: dict[str, dict[str, Any]] = {
    "0.1 B": {"model": {"width": 768, "depth": 12, "words": 32_000}, "rows": (1024, 900, 4)},
    "0.5 B": {"model": {"width": 1536, "depth": 16, "words": 32_000}, "rows": (1024, 900, 4)},
    "1.5 B": {"model": {"width": 2048, "depth": 24, "words": 64_000}, "rows": (2048, 1900, 4)},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "frozen language, bf16": {"learn": rehearsed.ALIGN, "casting": True, "checkpointing": False},
    "language learns, bf16, recomputed": {"learn": rehearsed.TUNE, "casting": True, "checkpointing": True},
    "language learns, fp32": {"learn": rehearsed.TUNE, "casting": False, "checkpointing": False},
    "language learns, bf16 weights": {"learn": rehearsed.TUNE, "casting": True, "checkpointing": False, "half": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--big", action="store_true")
    parser.add_argument("--ranks", type=int)
    asked = parser.parse_args()
    if asked.ranks:
        print(f"torch {torch.__version__}, {asked.ranks} processes\n")
        print("| size | setting | layout | state | plan | DeepSpeed | accelerate |")
        print("|---|---|---|---|---|---|---|")
        for size, told in SIZES.items():
            for name, learn in (("frozen language", rehearsed.ALIGN), ("language learns", rehearsed.TUNE)):
                shared(size, told["model"], name, learn, asked.ranks)
        return
    device = ("cuda" if torch.cuda.is_available() else "cpu") if asked.device == "auto" else asked.device
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU, by torch's MemTracker"
    print(f"torch {torch.__version__}, {where}\n")
    print("| size | setting | peak | plan | error | state | plan | DeepSpeed | accelerate |")
    print("|---|---|---|---|---|---|---|---|---|")
    worst = 0.0
    for size, told in (BIG if asked.big else SIZES).items():
        for name, setting in SETTINGS.items():
            worst = max(worst, line(size, told, name, setting, device))
    print(f"\nlargest error of a peak: {worst:.1%}")


def line(size: str, told: dict[str, Any], name: str, setting: dict[str, Any], device: str) -> float:
    """Print one row of the table; returns the error of the peak."""
    length, supervised, rows = told["rows"]
    shape = RowShape(length, 16, 16, supervised)
    run = rehearsed.forward(
        rows, casting=setting["casting"], checkpointing=setting["checkpointing"], shape=shape, device=device
    )
    plain = rehearsed.forward(rows, casting=setting["casting"], checkpointing=setting["checkpointing"], shape=shape)

    def make() -> Any:
        built = rehearsed.model(setting["learn"], **told["model"])
        if setting.get("half"):
            halve(built)
        return built

    planned, states = rehearse(make(), plain).peak, sum(one.total for one in state_bytes(make()).values())
    made = rehearsed.real(make())
    peak = rehearsed.tracked(made, run)[0] if device == "cpu" else on_cuda(made.cuda(), run)
    held = state_held(made)
    count = sum(parameter.numel() for parameter in made.parameters())
    error = planned / peak - 1
    cells = (size, name, mib(peak), mib(planned), f"{error:+.1%}", mib(held), f"{states / held - 1:+.2%}")
    print("|", " | ".join((*cells, f"{20 * count / held - 1:+.0%}", f"{16 * count / held - 1:+.0%}")), "|", flush=True)
    return abs(error)


def shared(size: str, told: dict[str, Any], name: str, learn: dict[str, Any], ranks: int) -> None:
    """Print what a rank holds under each kind of ZeRO, and what estimators say of it."""
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    from tests.plan.zero import held_by_a_rank

    made = rehearsed.model(learn, **told)
    count = sum(parameter.numel() for parameter in made.parameters())
    largest = max(sum(p.numel() for p in module.parameters(recurse=False)) for module in made.modules())
    _, second = estimate_zero2_model_states_mem_needs(count, ranks, 1, cpu_offload=False)
    _, third, _ = estimate_zero3_model_states_mem_needs(count, largest, ranks, 1, cpu_offload=False)
    told_by = {"zero2": second, "zero3": third}
    with tempfile.TemporaryDirectory() as folder:
        found = held_by_a_rank(ranks, learn, told, Path(folder))
    for kind, each in found.items():
        held = each.total
        planned = sum(one.total for one in state_of(made, kind, World(ranks, 1, 1.0, 1.0)).values())
        theirs = f"{told_by[kind] / held - 1:+.0%}" if kind in told_by else "none"
        cells = (size, name, kind, mib(held), "exact" if planned == held else f"{planned / held - 1:+.2%}", theirs)
        print("|", " | ".join((*cells, f"{16 * count / held - 1:+.0%}")), "|", flush=True)


def on_cuda(made: nn.Module, run: Any) -> int:
    """The peak of a real step beyond what was allocated before it; the first step is for the libraries' workspaces."""
    for _ in range(2):
        made.zero_grad(set_to_none=True)
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run(made).backward()
        torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def state_held(made: nn.Module) -> int:
    """Bytes of weights, buffers, gradients and AdamW's state in this process."""
    learning = [parameter for parameter in made.parameters() if parameter.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(learning)
    if learning[0].dtype == torch.bfloat16:
        groups = [{"params": learning}]
        optimizer = RoundedAdamW(groups, betas=(0.9, 0.999), eps=1e-8, rounding="stochastic")
    optimizer.step()
    tensors = [*made.parameters(), *made.buffers()]
    tensors += [parameter.grad for parameter in made.parameters() if parameter.grad is not None]
    tensors += [value for state in optimizer.state.values() for value in state.values()]
    return sum(tensor.untyped_storage().nbytes() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def mib(size: float) -> str:
    return f"{size / 2**20:,.2f} MiB"


if __name__ == "__main__":
    main()
