"""Pretrain a very small Llama on plain text with an ordinary PyTorch loop."""

import torch
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_schedule_with_warmup, set_seed

set_seed(0)
text = open("input.txt", encoding="utf-8").read()
ids = torch.tensor(list(text.encode("utf-8")))
blocks = list(ids[: len(ids) // 48 * 48].view(-1, 48))
loader = DataLoader(blocks, batch_size=8, shuffle=True, drop_last=True)

config = LlamaConfig(
    vocab_size=256,
    hidden_size=48,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
)
model = LlamaForCausalLM(config)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
scheduler = get_cosine_schedule_with_warmup(optimizer, 5, len(loader))

model.train()
for step, batch in enumerate(loader, 1):
    loss = model(input_ids=batch, labels=batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
    optimizer.zero_grad()
    if step % 10 == 0:
        print(f"{step}: loss {loss.item():.6f}, lr {scheduler.get_last_lr()[0]:.3e}")

model.eval()
prompt = torch.tensor([list(b"The ")])
out = model.generate(prompt, max_new_tokens=16, do_sample=False, pad_token_id=0)
print(bytes(out[0].tolist()))
