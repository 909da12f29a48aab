"""Linear probing first, then the last block is unfrozen with a smaller rate. The backbone stays in eval mode."""

import torch
import torch.nn as nn


def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.BatchNorm2d(o), nn.ReLU())


class Backbone(nn.Sequential):
    def __init__(self):
        super().__init__(block(3, 8), block(8, 16), block(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten())


torch.manual_seed(0)
pretrained = Backbone()
with torch.no_grad():
    for _ in range(20):
        pretrained(torch.randn(16, 3, 24, 24))
torch.save(pretrained.state_dict(), "backbone.pt")

backbone = Backbone()
backbone.load_state_dict(torch.load("backbone.pt"))
for p in backbone.parameters():
    p.requires_grad = False
backbone.eval()
head = nn.Linear(32, 4)
model = nn.Sequential(backbone, head)

palette = torch.rand(4, 3)


def batch(n=24):
    y = torch.randint(0, 4, (n,))
    return palette[y][:, :, None, None] + 0.3 * torch.randn(n, 3, 24, 24), y


criterion = nn.CrossEntropyLoss()
optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
for step in range(40):
    x, y = batch()
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("probe", loss.item())

for p in backbone[2].parameters():
    p.requires_grad = True
optimizer = torch.optim.Adam(
    [{"params": backbone[2].parameters(), "lr": 1e-4}, {"params": head.parameters(), "lr": 1e-3}]
)
for step in range(40):
    x, y = batch()
    loss = criterion(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("fine-tuned", loss.item())
