"""L7 through the door: evaluations of a little language model, counted in several ways."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers

import sightline


def trained() -> tuple[Any, Any]:
    """A model that knows counting up by heart, and nothing else."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=48,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    lm = transformers.LlamaForCausalLM(config)
    adam = torch.optim.AdamW(lm.parameters(), lr=1e-2)
    guard = sightline.attach(lm, adam, on_finding=None)
    for _ in range(40):
        start = torch.randint(1, 16, (8, 1))
        rows = start + torch.arange(24)
        lm(input_ids=rows, labels=rows).loss.backward()
        adam.step()
        adam.zero_grad()
    lm.eval()
    return lm, guard


def said(guard: Any) -> list[tuple[str, str]]:
    guard.close()
    return [(finding.code, finding.severity) for finding in guard.findings]


@pytest.mark.parametrize("way", ["tokens", "batches", "perplexities"])
def test_batches_of_unequal_length(way: str) -> None:
    lm, guard = trained()
    easy, hard = torch.arange(2, 34)[None].repeat(4, 1), torch.randint(1, 40, (2, 5))
    total, count, means = 0.0, 0, []
    with torch.inference_mode():
        for rows in (easy, hard):
            mean = lm(input_ids=rows, labels=rows).loss.item()
            means.append(mean)
            total, count = total + mean * rows[:, 1:].numel(), count + rows[:, 1:].numel()
    ppl = {
        "tokens": math.exp(total / count),
        "batches": math.exp(sum(means) / 2),
        "perplexities": sum(map(math.exp, means)) / 2,
    }[way]
    guard.log({"val/perplexity": ppl}, phase="evaluation")
    assert said(guard) == ([] if way == "tokens" else [("L7", "warning")])


@pytest.mark.parametrize("mask_labels", [True, False])
def test_padding(mask_labels: bool) -> None:
    lm, guard = trained()
    rows = torch.zeros(3, 30, dtype=torch.long)
    for row, length in enumerate((30, 12, 8)):
        rows[row, :length] = torch.arange(length) + 3
    seen = (rows > 0).long()
    labels = rows.masked_fill(seen == 0, -100) if mask_labels else rows
    with torch.no_grad():
        loss = lm(input_ids=rows, attention_mask=seen, labels=labels).loss
    guard.log(ppl=loss.exp(), phase="evaluation")
    assert said(guard) == ([] if mask_labels else [("L7", "warning")])


@pytest.mark.parametrize("mask_overlap", [True, False])
def test_a_sliding_window(mask_overlap: bool) -> None:
    lm, guard = trained()
    text = torch.cat([torch.arange(1, 30), torch.randint(1, 40, (30,)), torch.arange(4, 40)])
    width, stride = 24, 12
    sums, count = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(text) - width + 1, stride):
            window = text[None, start : start + width]
            goal = window.clone()
            if mask_overlap and start:
                goal[:, : width - stride] = -100
            scored = int((goal[:, 1:] != -100).sum())
            sums, count = sums + lm(input_ids=window, labels=goal).loss.item() * scored, count + scored
    guard.log(perplexity=math.exp(sums / count), phase="evaluation")
    found = said(guard)
    assert found == [] if mask_overlap else found == [("L7", "warning")]


@pytest.mark.parametrize("mask_labels", [True, False])
@pytest.mark.parametrize("first", [0, 1])
def test_padding_that_only_the_weights_leave_out(mask_labels: bool, first: int) -> None:
    """Each batch's loss, weighted by its real tokens: `first` 0 counts those of the mask, 1 those that are targets."""
    lm, guard = trained()
    total, count = 0.0, 0
    for lengths in ((30, 12, 8), (20, 19, 18), (9, 5, 4)):
        rows = torch.zeros(3, max(lengths), dtype=torch.long)
        for row, length in enumerate(lengths):
            rows[row, :length] = torch.arange(length) + 3
        seen = (rows > 0).long()
        labels = rows.masked_fill(seen == 0, -100) if mask_labels else rows
        with torch.no_grad():
            loss = lm(input_ids=rows, attention_mask=seen, labels=labels).loss
        tokens = int(seen[:, first:].sum())
        total, count = total + loss.item() * tokens, count + tokens
    guard.log(ppl=math.exp(total / count), phase="evaluation")
    assert said(guard) == ([] if mask_labels else [("L7", "warning")])
