"""Gradient accumulation on rows of very different length."""

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
PAD, EOS, V = 0, 1, 48
ACCUM, MICRO, STEPS = 4, 4, 50


def row():
    n = int(torch.randint(4, 60, (1,)))
    a, d = int(torch.randint(V - 2, (1,))), int(torch.randint(1, 5, (1,)))
    return torch.tensor([(a + d * i) % (V - 2) + 2 for i in range(n)] + [EOS])


def micro_batch():
    rows = [row() for _ in range(MICRO)]
    width = max(map(len, rows))
    ids = torch.stack([F.pad(r, (0, width - len(r)), value=PAD) for r in rows])
    mask = torch.stack([F.pad(torch.ones_like(r), (0, width - len(r))) for r in rows])
    return ids, mask, ids.masked_fill(mask == 0, -100)


model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=V,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=EOS,
    )
)
opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
for step in range(STEPS):
    micro = [micro_batch() for _ in range(ACCUM)]
    total = sum((l[:, 1:] != -100).sum() for *_, l in micro)
    logged = 0.0
    for ids, mask, labels in micro:
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = (
            F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum")
            / total
        )
        loss.backward()
        logged += loss.item()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    opt.zero_grad()
    if step % 10 == 0:
        print(step, round(logged, 3))
