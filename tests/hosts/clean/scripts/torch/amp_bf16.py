import torch
import torch.nn as nn


def batches(n, size=32):
    w = torch.randn(32, 4)
    for _ in range(n):
        x = torch.randn(size, 32)
        yield x, (x @ w).argmax(dim=1)


torch.manual_seed(0)
model = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.LayerNorm(64), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 4))
opt = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95))
steps = 80
sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=5e-3, total_steps=steps)
for i, (x, y) in enumerate(batches(steps)):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(x)
        loss = nn.functional.cross_entropy(out, y)
    loss.backward()
    opt.step()
    sched.step()
    opt.zero_grad(set_to_none=True)
    if i % 20 == 19:
        print(i + 1, loss.item())
