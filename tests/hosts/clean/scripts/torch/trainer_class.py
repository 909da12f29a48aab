from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split


class Trainer:
    def __init__(self, model: nn.Module, train: DataLoader, valid: DataLoader, lr: float) -> None:
        self.model, self.train_loader, self.valid_loader = model, train, valid
        self.optimizer = torch.optim.Adagrad(model.parameters(), lr=lr)
        self.criterion = nn.CrossEntropyLoss(reduction="none")
        self.history: list[dict[str, float]] = []

    def step(self, batch) -> float:
        inputs, targets = batch
        self.optimizer.zero_grad()
        loss = self.criterion(self.model(inputs), targets).mean()
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def validate(self) -> float:
        was_training = self.model.training
        self.model.eval()
        total = sum(self.criterion(self.model(x), y).sum().item() for x, y in self.valid_loader)
        self.model.train(was_training)
        return total / len(self.valid_loader.dataset)

    def fit(self, epochs: int) -> None:
        self.model.train()
        for epoch in range(epochs):
            losses = [self.step(batch) for batch in self.train_loader]
            self.history.append({"train": sum(losses) / len(losses), "valid": self.validate()})
            print(epoch, self.history[-1])


def build_model() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 64), nn.GELU(), nn.Dropout(0.3), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 3))


if __name__ == "__main__":
    torch.manual_seed(17)
    x = torch.rand(640, 9)
    y = (x[:, :3].sum(1) > 1.5).long() + (x[:, 3:6].sum(1) > 1.5).long()
    train, valid = random_split(TensorDataset(x, y), [512, 128])
    Trainer(build_model(), DataLoader(train, 32, shuffle=True), DataLoader(valid, 64), lr=0.02).fit(6)
