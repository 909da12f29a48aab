"""(b) A LLaVA of half a million parameters, 2 images of 32 x 32 a step."""

import torch
from ways import STEPS, Clock, tiny_llava

torch.manual_seed(0)
torch.set_num_threads(1)
model = tiny_llava()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
count = (32 // 16) ** 2

with Clock(model, optimizer) as clock:
    for _ in range(STEPS):
        words = torch.randint(10, 1000, (2, 24))
        ids = torch.cat([torch.full((2, count), 3), words], dim=1)
        labels = ids.masked_fill(torch.arange(ids.shape[1]) < count + 12, -100)
        pixels = torch.randn(2, 3, 32, 32)
        optimizer.zero_grad()
        loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, pixel_values=pixels).loss
        loss.backward()
        optimizer.step()
        clock.step()
