"""Gradual unfreezing with layer-wise learning rates; the optimizer is extended with add_param_group."""

import torch
from torch import nn

torch.manual_seed(6)
layers = nn.ModuleDict(
    {
        "first": nn.Sequential(nn.Linear(14, 40), nn.Tanh()),
        "second": nn.Sequential(nn.Linear(40, 40), nn.Tanh()),
        "head": nn.Linear(40, 3),
    }
)


class Stack(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        for layer in self.layers.values():
            x = layer(x)
        return x


model = Stack(layers)
rule = torch.randn(14, 3)
for name in ("first", "second"):
    layers[name].requires_grad_(False)
optimizer = torch.optim.Adam(layers["head"].parameters(), lr=5e-3)
for phase, name in enumerate((None, "second", "first")):
    if name:
        layers[name].requires_grad_(True)
        optimizer.add_param_group({"params": layers[name].parameters(), "lr": 5e-3 / 2**phase})
    for _ in range(30):
        x = torch.randn(40, 14)
        loss = nn.functional.cross_entropy(model(x), (x @ rule).argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(name, [g["lr"] for g in optimizer.param_groups], loss.item())
