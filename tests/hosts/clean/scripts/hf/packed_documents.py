"""Several documents in a row, kept apart by position ids that restart and a block-diagonal mask."""

import random

import torch
from transformers import LlamaConfig, LlamaForCausalLM

random.seed(0)
torch.manual_seed(0)
text = open("input.txt").read()
alphabet = {c: i + 2 for i, c in enumerate(sorted(set(text)))}
documents = [[alphabet[c] for c in part[:40]] + [1] for part in text.split("\n\n") if len(part) > 8]
LENGTH = 96


def pack(docs):
    rows, row = [], []
    for doc in docs:
        if sum(map(len, row)) + len(doc) > LENGTH:
            rows.append(row)
            row = []
        row.append(doc)
    return [r for r in rows if r]


def tensors(row):
    ids, pos, labels, segment = [], [], [], []
    for k, doc in enumerate(row):
        ids += doc
        pos += range(len(doc))
        labels += [-100, *doc[1:]]
        segment += [k] * len(doc)
    pad = LENGTH - len(ids)
    ids, pos, labels, segment = ids + [0] * pad, pos + list(range(pad)), labels + [-100] * pad, segment + [-1] * pad
    segment = torch.tensor(segment)
    allowed = (segment[:, None] == segment[None, :]) & torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    return torch.tensor(ids), torch.tensor(pos), torch.tensor(labels), allowed[None]


rows = [tensors(row) for row in pack(documents)]
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(alphabet) + 2,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        attn_implementation="sdpa",
    )
)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(40):
    ids, pos, labels, mask = (torch.stack(part) for part in zip(*random.sample(rows, 4)))
    loss = model(input_ids=ids, position_ids=pos, attention_mask=mask, labels=labels).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 9:
        print(step + 1, loss.item())
