import sys
import torch
from torch import nn
from torch.amp import GradScaler, autocast
from torch.utils.data import DataLoader, TensorDataset

FAULTY = "faulty" in sys.argv

torch.manual_seed(3)
x = torch.randn(1024, 20)
w = torch.randn(20, 3)
y = (x @ w).argmax(-1)
loader = DataLoader(TensorDataset(x, y), batch_size=64, shuffle=True)
net = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.LayerNorm(64), nn.Linear(64, 3))
opt = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
scaler = GradScaler("cpu", init_scale=2.0**12)
criterion = nn.CrossEntropyLoss()
for epoch in range(4):
    for xb, yb in loader:
        opt.zero_grad(set_to_none=True)
        with autocast("cpu", dtype=torch.float16):
            loss = criterion(net(xb), yb)
        scaler.scale(loss).backward()
        if not FAULTY:
            scaler.unscale_(opt)
        torch.nn.utils.clip_grad_norm_(net.parameters(), max_norm=1.0)
        scaler.step(opt)
        scaler.update()
    print(epoch, loss.item())
