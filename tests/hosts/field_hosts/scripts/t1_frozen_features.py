import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from accelerate import Accelerator

FAULTY = "faulty" in sys.argv


class TwoTower(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(24, 64), nn.ReLU(), nn.Linear(64, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        if FAULTY:
            with torch.no_grad():
                h = self.encoder(x)
            return self.head(h)
        else:
            return self.head(self.encoder(x))


torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
x = torch.randn(640, 24)
y = (x[:, 0] * x[:, 1] > 0).long() + (x[:, 2] > 0).long()
model = TwoTower()
opt = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
dl = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
model, opt, dl = accelerator.prepare(model, opt, dl)
for epoch in range(4):
    for xb, yb in dl:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(xb), yb)
            accelerator.backward(loss)
            opt.step()
            opt.zero_grad()
    print(epoch, loss.item())
