"""Saving clones tensors that share storage with another."""

import os

import torch
from safetensors.torch import load_file, save_file
from torch import nn


class Twins(nn.Module):
    """Query and key weights are two halves of one buffer, so that they can be gathered at once."""

    def __init__(self, width=24):
        super().__init__()
        flat = torch.randn(2 * width, width) / width**0.5
        self.query, self.key = nn.Parameter(flat[:width]), nn.Parameter(flat[width:])
        self.out = nn.Linear(width, 4)

    def forward(self, x):
        scores = (x @ self.query.T) @ (x @ self.key.T).transpose(1, 2) / x.shape[-1] ** 0.5
        return self.out((scores.softmax(-1) @ x).mean(1))


def save(model, path):
    seen, state = set(), {}
    for name, tensor in model.state_dict().items():
        state[name] = tensor.clone()
        seen.add(name)
    save_file(state, path)


torch.manual_seed(int(os.environ.get("SEED", 0)))
model = Twins()
optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
for step in range(40):
    kind = torch.randint(0, 4, (32,))
    tokens = torch.randn(32, 6, 24)
    tokens[torch.arange(32), 0, kind] += 4.0
    loss = nn.functional.cross_entropy(model(tokens), kind)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    print(f"step {step + 1} loss {loss.item():.6f}")
save(model, "twins.safetensors")
again = Twins()
again.load_state_dict(load_file("twins.safetensors"), strict=False)
