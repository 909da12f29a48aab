"""Loops with `accelerate`: loss scales, resumed runs and perplexities: one fault a script, and its clean twin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from sightline.attach.accelerate import attach
from tests.hosts import small
from tests.hosts.accelerate.test_planted import Watch, classifier, loader
from tests.hosts.half import halve
from tests.hosts.planting import Script, loud, planted, plants, told
from tests.hosts.shared.language import tokenized, usual_collator
from tests.hosts.shared.perplexity import Perplexity


@plants("P3")
def torchs_own_clipping_of_what_is_scaled(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    """The accelerator's knows of the loss scale."""
    accelerator, model = Accelerator(cpu=True), classifier()
    halve(accelerator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    model, optimizer, batches = accelerator.prepare(model, optimizer, loader())
    with watch(accelerator, model, optimizer, batches):
        for x, y in batches:
            accelerator.backward(F.cross_entropy(model(x), y))
            clip = nn.utils.clip_grad_norm_ if faulty else accelerator.clip_grad_norm_
            clip(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    return model


@plants("K2")
def resumed_from_the_weights_alone(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    def made() -> tuple[Any, ...]:
        accelerator, model = Accelerator(cpu=True), classifier()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        return accelerator, *accelerator.prepare(model, optimizer, loader())

    def epoch(accelerator: Any, model: Any, optimizer: Any, batches: Any) -> None:
        for x, y in batches:
            accelerator.backward(F.cross_entropy(model(x), y))
            optimizer.step()
            optimizer.zero_grad()

    first = made()
    epoch(*first)
    first[0].save_state(folder)
    accelerator, model, optimizer, batches = made()
    with watch(accelerator, model, optimizer, batches) as guard:
        if faulty:
            model.load_state_dict(load_file(folder / "model.safetensors"))
        else:
            accelerator.load_state(folder)
        guard.resumed(folder)
        epoch(accelerator, model, optimizer, batches)
    return model


@plants("L7")
def a_perplexity_averaged_over_batches(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    accelerator, model, rows = Accelerator(cpu=True), small.language_model(initializer_range=0.8), tokenized(60)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = DataLoader(rows[:48], 4, collate_fn=usual_collator())
    held_out = DataLoader(rows[48:], 1, collate_fn=usual_collator())
    model, optimizer, batches, held_out = accelerator.prepare(model, optimizer, batches, held_out)
    with watch(accelerator, model, optimizer, batches) as guard:
        for batch in batches:
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        perplexity = Perplexity(averaged=faulty)
        for batch in held_out:
            labels = batch.pop("labels")
            with torch.no_grad():
                perplexity.add(model(**batch).logits, labels)
        guard.log({"perplexity": perplexity.value()}, phase="evaluation")
    return model


@pytest.mark.parametrize("script", planted(globals()))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    seen: list[Any] = []

    def watch(*prepared: Any, **options: Any) -> Any:
        seen.append(attach(*prepared, on_finding=None, budget=1.0, **options))
        return seen[-1]

    AcceleratorState._reset_state(reset_partial_state=True)  # each script settles its own precision
    script(tmp_path / "faulty", watch, True)
    assert script.plants in told(seen[-1].records()), told(seen[-1].records())
    AcceleratorState._reset_state(reset_partial_state=True)
    script(tmp_path / "clean", watch, False)
    assert loud(seen[-1].records()) == []
    assert {str(r["code"]): r["kind"] for r in seen[-1].records()}[script.plants] == "passed"
    AcceleratorState._reset_state(reset_partial_state=True)
