"""L1, L5 and L6 through the door: little language models, as people train, score and generate with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

import sightline

TEXTS = ("to be or not to be", "that is the question", "whether tis nobler", "in the mind to suffer the slings")
LETTERS = sorted({c for text in TEXTS for c in text})
PAD = 0


def encode(texts: tuple[str, ...], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    rows = [[LETTERS.index(c) + 3 for c in text] for text in texts]
    longest = max(len(row) for row in rows)
    fill = [[PAD] * (longest - len(row)) for row in rows]
    tensor = torch.tensor([r + pad if side == "right" else pad + r for r, pad in zip(rows, fill, strict=True)])
    return tensor, (tensor != PAD).long()


def llama(**more: Any) -> nn.Module:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        **{"max_position_embeddings": 64, "initializer_range": 0.3, **more},
        vocab_size=len(LETTERS) + 3,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config)


def fit(lm: nn.Module, steps: int = 3, length: int | None = None, lr: float = 1e-3) -> Any:
    adam = torch.optim.AdamW(lm.parameters(), lr=lr)
    guard = sightline.attach(lm, adam, on_finding=None, budget=1.0)
    tokens, seen = encode(TEXTS, "right")  # right padding is what training is used to
    if length is not None:
        tokens, seen = tokens.repeat(1, 4)[:, :length], torch.ones(len(tokens), length, dtype=torch.long)
    for _ in range(steps):
        lm(input_ids=tokens, attention_mask=seen, labels=tokens.masked_fill(seen == 0, -100)).loss.backward()
        adam.step()
        adam.zero_grad()
    return guard


def codes(guard: Any) -> list[str]:
    guard.close()
    return [finding.code for finding in guard.findings]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("sample", [False, True], ids=["greedy", "sampled"])
def test_generate_from_a_batch(side: str, sample: bool) -> None:
    lm = llama()
    guard = fit(lm)
    lm.eval()
    prompts, mask = encode(TEXTS, side)
    lm.generate(input_ids=prompts, attention_mask=mask, max_new_tokens=3, do_sample=sample)
    assert codes(guard) == ([] if side == "left" else ["L1"])


@pytest.mark.parametrize("side", ["left", "right"])
def test_generation_by_hand_without_a_mask_or_a_cache(side: str) -> None:
    lm = llama()
    guard = fit(lm)
    lm.eval()
    text, mask = encode(TEXTS, side)
    with torch.no_grad():
        for _ in range(3):
            more = lm(text, attention_mask=mask).logits[:, -1].argmax(-1, keepdim=True)
            text, mask = torch.cat([text, more], 1), torch.cat([mask, torch.ones_like(more)], 1)
    assert codes(guard) == ([] if side == "left" else ["L1"])


def test_right_padding_that_is_read_at_the_last_letter_is_fine() -> None:
    lm = llama()
    guard = fit(lm)
    lm.eval()
    text, mask = encode(TEXTS, "right")
    with torch.no_grad():
        for _ in range(2):
            lm(text, attention_mask=mask).logits[torch.arange(len(text)), mask.sum(1) - 1].argmax(-1)
    assert codes(guard) == []
    assert {r["code"]: r["kind"] for r in guard.records()}["L1"] == "passed"


@pytest.mark.parametrize(
    ("length", "rope", "found"),
    [(64, None, []), (96, None, ["L5"]), (96, {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}, [])],
    ids=["as long as trained", "longer", "longer, stretched"],
)
def test_long_rows(length: int, rope: dict[str, Any] | None, found: list[str]) -> None:
    lm = llama(**({"rope_parameters": rope} if rope else {}))
    assert codes(fit(lm, length=length)) == found


def test_a_stretch_that_is_set_on_a_finished_model() -> None:
    lm = llama()
    lm.config.rope_parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}
    assert codes(fit(lm, length=60)) == ["L5"]


@pytest.mark.parametrize("lr", [1e-3, 30.0])
def test_a_rate_that_throws_the_model_out(lr: float) -> None:
    class Letters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(27, 12)
            self.core = nn.GRU(12, 12, batch_first=True)
            self.out = nn.Linear(12, 27)

        def forward(self, text: torch.Tensor) -> torch.Tensor:
            return self.out(self.core(self.table(text))[0])

    torch.manual_seed(0)
    net = Letters()
    opt = torch.optim.Adam(net.parameters(), lr=lr)
    with sightline.attach(net, opt, on_finding=None, budget=1.0) as guard:
        for _ in range(24):
            text = torch.randint(0, 27, (6, 10))
            opt.zero_grad()
            F.cross_entropy(net(text)[:, :-1].reshape(-1, 27), text[:, 1:].reshape(-1)).backward()
            opt.step()
    assert ("L6" in [f.code for f in guard.findings]) == (lr > 1)
    if lr < 1:
        assert guard.findings == ()
