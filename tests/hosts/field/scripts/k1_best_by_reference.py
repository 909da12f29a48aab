"""Distil an MLP-mixer teacher into a small CNN student, keep the best student by validation accuracy, stop early."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(21)


def blobs(n):
    y = torch.randint(0, 6, (n,))
    xx, yy = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    ang = y[:, None, None] * 0.5236
    phase = torch.rand(n, 1, 1) * 6.28
    img = torch.sin(0.9 * (xx * ang.cos() + yy * ang.sin()) + phase)
    return (img + 0.7 * torch.randn(n, 12, 12)).unsqueeze(1), y


class Mixer(nn.Module):
    def __init__(self, d=64, depth=2):
        super().__init__()
        self.patch = nn.Conv2d(1, d, 3, 3)
        self.tok = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(depth)
        )
        self.ch = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 2 * d), nn.GELU(), nn.Linear(2 * d, d)) for _ in range(depth)
        )
        self.head = nn.Linear(d, 6)

    def forward(self, x):
        h = self.patch(x).flatten(2)
        for t, c in zip(self.tok, self.ch):
            h = h + t(h)
            h = h + c(h.transpose(1, 2)).transpose(1, 2)
        return self.head(h.mean(-1))


class Student(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 8, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(16, 6),
        )


def batches(x, y, size):
    for idx in torch.randperm(len(x)).split(size):
        yield x[idx], y[idx]


@torch.no_grad()
def accuracy(model, x, y):
    model.eval()
    return (model(x).argmax(1) == y).float().mean().item()


class Distiller:
    def __init__(self, teacher, student, T=3.0, alpha=0.7, lr=2e-2, patience=4):
        self.teacher, self.student, self.T, self.alpha, self.patience = teacher, student, T, alpha, patience
        self.opt = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9)
        self.teacher.eval().requires_grad_(False)

    def loss(self, x, y):
        with torch.no_grad():
            soft = F.softmax(self.teacher(x) / self.T, -1)
        out = self.student(x)
        kd = F.kl_div(F.log_softmax(out / self.T, -1), soft, reduction="batchmean") * self.T**2
        return self.alpha * kd + (1 - self.alpha) * F.cross_entropy(out, y)

    def fit(self, train, val, epochs=25):
        best, best_state, bad = -1.0, None, 0
        for epoch in range(epochs):
            self.student.train()
            for x, y in batches(*train, 64):
                loss = self.loss(x, y)
                self.opt.zero_grad()
                loss.backward()
                self.opt.step()
            acc = accuracy(self.student, *val)
            print(f"epoch {epoch} loss {loss.item():.3f} val {acc:.3f}")
            if acc > best:
                best, bad = acc, 0
                best_state = copy.deepcopy(self.student.state_dict())
            else:
                bad += 1
                if bad >= self.patience:
                    break
        self.student.load_state_dict(best_state)
        return best


train, val, test = blobs(1500), blobs(300), blobs(600)
teacher = Mixer()
opt = torch.optim.AdamW(teacher.parameters(), lr=2e-3)
for epoch in range(6):
    teacher.train()
    for x, y in batches(*train, 64):
        loss = F.cross_entropy(teacher(x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
print("teacher", accuracy(teacher, *test))
d = Distiller(teacher, Student())
print("best val", d.fit(train, val))
print("student test", accuracy(d.student, *test), "val again", accuracy(d.student, *val))
