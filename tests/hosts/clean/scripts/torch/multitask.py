import torch
from torch import nn


class MultiTask(nn.Module):
    """A shared trunk; age by regression, kind by classification, tags by several binary labels."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.BatchNorm1d(48), nn.Linear(48, 48), nn.ReLU())
        self.age = nn.Linear(48, 1)
        self.kind = nn.Linear(48, 4)
        self.tags = nn.Linear(48, 6)

    def forward(self, x):
        h = self.trunk(x)
        return {"age": self.age(h).squeeze(-1), "kind": self.kind(h), "tags": self.tags(h)}


def make(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(24, 11, generator=torch.Generator().manual_seed(99)) / 24**0.5
    x = torch.randn(n, 24, generator=g)
    z = x @ w
    return x, {"age": z[:, 0], "kind": z[:, 1:5].argmax(1), "tags": (z[:, 5:] > 0).float()}


torch.manual_seed(0)
model = MultiTask()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4)
losses = {"age": nn.SmoothL1Loss(), "kind": nn.CrossEntropyLoss(label_smoothing=0.05), "tags": nn.BCEWithLogitsLoss()}
weight = {"age": 1.0, "kind": 1.0, "tags": 0.5}
x, y = make(512)
for epoch in range(6):
    model.train()
    for idx in torch.randperm(512).split(32):
        outputs = model(x[idx])
        parts = {name: fn(outputs[name], y[name][idx]) for name, fn in losses.items()}
        loss = sum(weight[name] * part for name, part in parts.items())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        xv, yv = make(128, seed=1)
        out = model(xv)
        acc = (out["kind"].argmax(-1) == yv["kind"]).float().mean().item()
    print(epoch, {k: round(v.item(), 5) for k, v in parts.items()}, round(acc, 4))
