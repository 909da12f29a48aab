"""Loops with `accelerate`: one fault a script, its clean twin, and the same twin without the guard."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from sightline.attach.accelerate import attach
from sightline.errors import UserError
from tests.hosts import small
from tests.hosts.planting import Script, loud, planted, plants, same, told

Watch = Callable[..., contextlib.AbstractContextManager[Any]]


def classifier(activation: type[nn.Module] = nn.ReLU, depth: int = 2) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [part for _ in range(depth) for part in (nn.Linear(16, 16), activation())]
    return nn.Sequential(*layers, nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 4))


def loader(count: int = 64, size: int = 8, seed: int = 0) -> DataLoader[Any]:
    x = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(x, x[:, :4].argmax(1)), size, shuffle=True)


def loop(
    model: nn.Module, batches: DataLoader[Any], watch: Watch, *, zero: bool = True, rate: float = 0.05
) -> nn.Module:
    """The loop of accelerate's own examples."""
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    with watch(accelerator, model, optimizer, batches):
        for _ in range(2):
            for x, y in batches:
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                if zero:
                    optimizer.zero_grad()
    return accelerator.unwrap_model(model)


@plants("T1")
def an_optimizer_of_a_discarded_model(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    accelerator = Accelerator(cpu=True)
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    if faulty:
        model = classifier()
    model, optimizer, batches = accelerator.prepare(model, optimizer, loader())
    with watch(accelerator, model, optimizer, batches):
        for _ in range(3):
            for x, y in batches:
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
    return model


@plants("T2")
def a_loop_that_never_clears_gradients(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    return loop(classifier(), loader(), watch, zero=not faulty)


@plants("T3")
def a_test_without_eval(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    accelerator = Accelerator(cpu=True)
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, batches, held_out = accelerator.prepare(model, optimizer, loader(), loader(16, seed=1))
    with watch(accelerator, model, optimizer, batches):
        for _ in range(2):
            model.train()
            for x, y in batches:
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()
            if not faulty:
                model.eval()
            right = 0
            for x, y in held_out:
                with torch.no_grad():
                    guess = model(x).argmax(1)
                right += int((accelerator.gather_for_metrics(guess) == accelerator.gather_for_metrics(y)).sum())
    return model


@plants("T4")
def softmax_before_cross_entropy(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    model = classifier()
    if faulty:
        model.append(nn.Softmax(dim=-1))
    return loop(model, loader(), watch)


@plants("T5")
def a_mean_of_each_micro_batch(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    """`accelerator.backward` divides by the number of micro-batches: the loss must be a sum over the step's tokens."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model, tok = small.language_model(), small.tokenizer()
    rows = [tok(text, return_tensors="pt")["input_ids"] for text in small.sentences(32)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer = accelerator.prepare(model, optimizer)
    with watch(accelerator, model, optimizer):
        for start in range(0, len(rows), 4):
            group = rows[start : start + 4]
            tokens = sum(row.shape[1] - 1 for row in group)
            for ids in group:
                with accelerator.accumulate(model):
                    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
                    if faulty:
                        loss = F.cross_entropy(logits, ids[:, 1:].flatten())
                    else:
                        loss = F.cross_entropy(logits, ids[:, 1:].flatten(), reduction="sum") * 4 / tokens
                    accelerator.backward(loss)
                    optimizer.step()
                    optimizer.zero_grad()
    return model


@plants("L2")
def padding_is_supervised(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    accelerator = Accelerator(cpu=True)
    model, tok = small.language_model(), small.tokenizer()

    def collate(texts: list[str]) -> Any:
        batch = tok(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
        ids = batch["input_ids"]
        return {**batch, "labels": ids if faulty else ids.masked_fill(batch["attention_mask"] == 0, -100)}

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = DataLoader(small.sentences(32), 4, collate_fn=collate)
    model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
    with watch(accelerator, model, optimizer, batches, tokenizer=tok):
        for batch in batches:
            accelerator.backward(model(**batch).loss)
            accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    return model


@plants("P1")
def a_rate_that_breaks_the_weights(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    return loop(classifier(), loader(), watch, rate=1e30 if faulty else 0.05)


@plants("P6")
def twelve_sigmoids(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    return loop(classifier(nn.Sigmoid if faulty else nn.ReLU, 12), loader(), watch)


@plants("P4")
def weights_in_bfloat16(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    accelerator = Accelerator(cpu=True)
    model = classifier()
    if faulty:
        model.to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-5)
    model, optimizer, batches = accelerator.prepare(model, optimizer, loader())
    with watch(accelerator, model, optimizer, batches):
        for _ in range(6):
            for x, y in batches:
                accelerator.backward(F.cross_entropy(model(x.bfloat16() if faulty else x), y))
                optimizer.step()
                optimizer.zero_grad()
    return model


@plants("T6")
def a_schedule_planned_in_micro_batches(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    """`prepare` makes the schedule advance with the optimizer's steps, a quarter as often as there are batches."""
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=4)
    model, epochs = classifier(), 16
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    batches = loader()
    planned = epochs * len(batches) // (1 if faulty else 4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, planned)
    model, optimizer, batches, schedule = accelerator.prepare(model, optimizer, batches, schedule)
    with watch(accelerator, model, optimizer, batches):
        for _ in range(epochs):
            for x, y in batches:
                with accelerator.accumulate(model):
                    accelerator.backward(F.cross_entropy(model(x), y))
                    optimizer.step()
                    schedule.step()
                    optimizer.zero_grad()
    return model


@plants("K1")
def saved_before_the_last_step(folder: Path, watch: Watch, faulty: bool) -> nn.Module:
    accelerator = Accelerator(cpu=True)
    model = classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model, optimizer, batches = accelerator.prepare(model, optimizer, loader())
    with watch(accelerator, model, optimizer, batches) as guard:
        for place, (x, y) in enumerate(batches):
            accelerator.backward(F.cross_entropy(model(x), y))
            if faulty and place == len(batches) - 1:
                accelerator.save_model(model, folder)
            optimizer.step()
            optimizer.zero_grad()
        if not faulty:
            accelerator.save_model(model, folder)
        if guard is not None:
            guard.checkpoint(folder / "model.safetensors")
    return model


@pytest.mark.parametrize("script", planted(globals()))
def test_found_in_the_script_and_not_in_its_twin(script: Script, tmp_path: Path) -> None:
    seen: list[Any] = []

    def watch(*prepared: Any, **options: Any) -> Any:
        seen.append(attach(*prepared, on_finding=None, budget=1.0, **options))
        return seen[-1]

    script(tmp_path / "faulty", watch, True)
    assert script.plants in told(seen[-1].records()), (told(seen[-1].records()), seen[-1].records())
    script(tmp_path / "clean", watch, False)
    assert loud(seen[-1].records()) == []
    kinds = {str(r["code"]): (r["kind"], r.get("why")) for r in seen[-1].records()}
    assert kinds[script.plants][0] == ("not-run" if script.plants == "P4" else "passed"), kinds[script.plants]


@pytest.mark.parametrize("script", planted(globals())[::4])
def test_the_guard_changes_no_bit(script: Script, tmp_path: Path) -> None:
    watched = script(tmp_path / "watched", partial(attach, on_finding=None), False)
    assert same(watched, script(tmp_path / "alone", lambda *_, **__: contextlib.nullcontext(), False))


def test_only_an_accelerator_will_do() -> None:
    with pytest.raises(UserError, match="a Sequential is no Accelerator"):
        attach(classifier(), classifier())
