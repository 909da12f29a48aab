"""Multi-label tagging of short signals."""

import torch
from torch import nn, optim


class Tagger(nn.Module):
    def __init__(self, channels=1, tags=6):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(channels, 16, 7, padding=3),
            nn.ReLU(),
            nn.MaxPool1d(2),
            nn.Conv1d(16, 32, 5, padding=2),
            nn.ReLU(),
            nn.AdaptiveAvgPool1d(1),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(32, tags)

    def forward(self, x):
        return self.classifier(self.features(x))


def make_data(n):
    t = torch.linspace(0, 1, 64)
    tags = (torch.rand(n, 6) < 0.35).float()
    waves = torch.stack([torch.sin(2 * torch.pi * f * t) for f in (2, 5, 9, 13, 18, 24)])
    return (tags @ waves + 0.1 * torch.randn(n, 64)).unsqueeze(1), tags


def main():
    torch.manual_seed(5)
    x_train, y_train = make_data(1024)
    x_test, y_test = make_data(256)
    net = Tagger()
    loss_fn = nn.BCEWithLogitsLoss()
    opt = optim.Adam(net.parameters(), lr=3e-3)
    for epoch in range(6):
        net.train()
        order = torch.randperm(len(x_train))
        for i in range(0, len(order), 32):
            idx = order[i : i + 32]
            opt.zero_grad()
            loss = loss_fn(net(x_train[idx]), y_train[idx])
            loss.backward()
            opt.step()
        net.eval()
        with torch.no_grad():
            scores = net(x_test)
            f = ((scores > 0) == y_test.bool()).float().mean()
        print(f"epoch {epoch} loss {loss.item():.4f} accuracy {f:.3f}")


main()
