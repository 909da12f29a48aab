import torch
import torch.nn as nn
from torch.utils.data import DataLoader, TensorDataset


def make_moons(n, noise=0.1):
    t = torch.rand(n) * torch.pi
    label = torch.randint(0, 2, (n,))
    upper = torch.stack([t.cos(), t.sin()], dim=1)
    lower = torch.stack([1 - t.cos(), 0.5 - t.sin()], dim=1)
    points = torch.where(label[:, None] == 0, upper, lower)
    return points + noise * torch.randn(n, 2), label


def train_epoch(model, loader, criterion, optimizer):
    model.train()
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = criterion(model(x), y)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    return total / len(loader.dataset)


def accuracy(model, loader):
    model.eval()
    correct = 0
    with torch.no_grad():
        for x, y in loader:
            correct += (model(x).argmax(1) == y).sum().item()
    return correct / len(loader.dataset)


def main():
    torch.manual_seed(0)
    train = DataLoader(TensorDataset(*make_moons(512)), batch_size=32, shuffle=True)
    test = DataLoader(TensorDataset(*make_moons(256)), batch_size=128)
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=3, gamma=0.5)
    criterion = nn.CrossEntropyLoss()
    for epoch in range(6):
        loss = train_epoch(model, train, criterion, optimizer)
        scheduler.step()
        print(f"epoch {epoch} loss {loss:.6f} test accuracy {accuracy(model, test):.4f}")


if __name__ == "__main__":
    main()
