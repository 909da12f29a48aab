import torch
from transformers import RobertaConfig, RobertaForMaskedLM

torch.manual_seed(0)
MASK, PAD = 3, 1
config = RobertaConfig(
    vocab_size=60,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=40,
    pad_token_id=PAD,
)
model = RobertaForMaskedLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)


def sentences(n, length=20):
    start = torch.randint(0, 50, (n, 1))
    ids = start.repeat(1, length) % 50 + 10
    ids[:, ::2] = (ids[:, ::2] - 9) % 50 + 10
    mask = torch.ones_like(ids)
    for row, keep in enumerate(torch.randint(10, length + 1, (n,)).tolist()):
        ids[row, keep:], mask[row, keep:] = PAD, 0
    return ids, mask


def corrupt(ids, mask):
    labels = ids.clone()
    chosen = (torch.rand(ids.shape) < 0.15) & mask.bool()
    chosen[:, 0] = True
    labels[~chosen] = -100
    noisy = ids.clone()
    roll = torch.rand(ids.shape)
    noisy[chosen & (roll < 0.8)] = MASK
    swap = chosen & (roll > 0.9)
    noisy[swap] = torch.randint(10, 60, (int(swap.sum()),))
    return noisy, labels


model.train()
for step in range(60):
    ids, mask = sentences(16)
    noisy, labels = corrupt(ids, mask)
    out = model(input_ids=noisy, attention_mask=mask, labels=labels)
    out.loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    if step % 10 == 9:
        print(step + 1, out.loss.item())
