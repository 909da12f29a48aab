"""Facts of a run for run.json: versions, machine, memory, what each stage set out to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import sys
from dataclasses import asdict
from typing import Any

import psutil
import torch
from torch import nn

from sightline.data.encode_answers import AnswerEncoder
from sightline.data.row import Skipped
from sightline.models.vlm import VLM
from sightline.plan.memory import adam_of, state_bytes
from sightline.recipe.schema import Recipe
from sightline.train.parallel.ranks import Ranks
from sightline.train.precision import Precision
from sightline.train.stage import ReadyStage
from sightline.train.streamed import StreamedBatches

PACKAGES = ("sightline", "torch", "transformers", "tokenizers", "peft", "safetensors", "pillow", "numpy")
SHOWN_SKIPPED = 1000  # skipped rows told one by one; all are counted


def starting_facts(recipe: Recipe, model: VLM, precision: Precision, ranks: Ranks) -> dict[str, Any]:
    """What is known before the first step."""
    return {
        "versions": {"python": platform.python_version()} | versions(),
        "machine": machine(),
        "seed": recipe.seed,
        "precision": precision.kind,
        "device": str(ranks.device),
        "world_size": ranks.world,
        "towers": {tower: _tower(model, tower) for tower in model.towers},
    }


def versions() -> dict[str, str]:
    """Installed versions of the packages that decide a run's numbers."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Processor, cores, memory in GiB and GPUs of this machine."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": gpus,
        "platform": platform.platform(),
    }


def peak_memory(device: torch.device) -> int:
    """Most bytes held so far: by torch on a GPU, by the whole process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def stage_facts(stage: ReadyStage, seconds: float, ended: str, best: float | None) -> dict[str, Any]:
    """What a stage trained, for how long, and what it held in memory."""
    spec, model = stage.spec, stage.built.model
    adam = adam_of(spec.optimizer.rounding, "bf16" if next(model.parameters()).dtype == torch.bfloat16 else "fp32")
    held = state_bytes(model, ema=spec.ema is not None, adam=adam)
    kinds: dict[str, int] = {}
    for tower in held.values():
        for kind, size in asdict(tower).items():
            kinds[kind] = kinds.get(kind, 0) + size
    return {
        "name": spec.name,
        "steps": stage.plan.total,
        "sequences": stage.batches.sequences,
        "learn": {tower: plan.rule for tower, plan in stage.towers.items()},
        "lr": {tower: spec.rate_for(tower) for tower, plan in stage.towers.items() if plan.trainable},
        "trainable": {tower: plan.trainable for tower, plan in stage.towers.items()},
        "frozen": {tower: plan.frozen for tower, plan in stage.towers.items()},
        "estimated_memory_bytes": {kind: size for kind, size in kinds.items() if size},
        "peak_memory_bytes": peak_memory(stage.ranks.device),
        **({"augment": stage.batches.augment.facts()} if stage.batches.augment else {}),
        "seconds": seconds,
        "best_validation": best,
        "ended": ended,
        **answer_facts(stage),
    }


def answer_facts(stage: ReadyStage) -> dict[str, Any]:
    """Of a stage that learns to choose answers: how many there are, and the rows (none streamed) that have none."""
    encoder = stage.built.encoder_for(stage.spec)
    if not isinstance(encoder, AnswerEncoder):
        return {}
    rows = [row for each in stage.batches.supplies.values() for row in each.rows]
    counts = {"vocabulary": len(encoder.answers), "rows": len(rows), "outside_vocabulary": encoder.outside(rows)}
    return {"answers": counts}


def stream_facts(stage: ReadyStage, steps: int) -> dict[str, Any]:
    """What the first `steps` steps of a stage drew from its streams, where it has any."""
    return {"streams": stage.batches.drawn(steps)} if isinstance(stage.batches, StreamedBatches) else {}


def skipped_facts(skipped: list[Skipped]) -> dict[str, Any]:
    """Rows left out: all counted, the first ones named."""
    named = [{"where": str(each.where), "reason": each.reason} for each in skipped[:SHOWN_SKIPPED]]
    return {"skipped_rows": named, "skipped_count": len(skipped)}


def _tower(model: VLM, tower: Any) -> dict[str, Any]:
    parameters = [parameter for _, parameter in model.tower_parameters(tower)]
    blocks = len(model.blocks(tower))
    said = [_described(module) for _, module in model.tower_modules(tower)] + ([f"{blocks} blocks"] if blocks else [])
    return {
        "parameters": sum(p.numel() for p in parameters),
        "bytes": sum(p.numel() * p.element_size() for p in parameters),
        "description": ", ".join(dict.fromkeys(said)),
    }


def _described(module: nn.Module) -> str:
    """A tower's module in words: the kind and width of a transformers model, else the layers it is made of."""
    config = getattr(module, "config", None)
    if kind := getattr(config, "model_type", None):
        width = getattr(config, "hidden_size", None)
        return f"{kind}, width {width}" if isinstance(width, int) else str(kind)
    layers = [part for part in module.modules() if not list(part.children())]
    sizes = [f"{type(p).__name__} {p.in_features} to {p.out_features}" for p in layers if isinstance(p, nn.Linear)]
    return ", ".join(sizes) if sizes else type(module).__name__


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
