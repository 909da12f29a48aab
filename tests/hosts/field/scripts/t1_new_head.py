"""Transfer learning: keep the body, new head for the new task."""

import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)


class SmallConvNet(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.fc = nn.Linear(32 * 4 * 4, num_classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc(x.flatten(1))


def stripes(n, classes):
    y = torch.randint(classes, (n,))
    x = 0.3 * torch.randn(n, 1, 16, 16)
    for i in range(n):
        k = int(y[i])
        if k % 2:
            x[i, 0, :: k // 2 + 2] += 1
        else:
            x[i, 0, :, :: k // 2 + 2] += 1
    return x, y


def fit(model, optimizer, x, y, epochs):
    for epoch in range(epochs):
        perm = torch.randperm(len(x))
        total = 0.0
        for chunk in perm.split(32):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x[chunk]), y[chunk])
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"  epoch {epoch}: {total / len(perm.split(32)):.3f}")


model = SmallConvNet(10)
x_old, y_old = stripes(512, 10)
print("pre-training")
fit(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), x_old, y_old, 3)

print("fine-tuning")
x_new, y_new = stripes(384, 4)
model.fc = nn.Linear(32 * 4 * 4, 4)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
fit(model, optimizer, x_new, y_new, 4)
