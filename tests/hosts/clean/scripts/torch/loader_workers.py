import torch
import torch.nn as nn
from torch.utils.data import DataLoader, Dataset


class Augmented(Dataset):
    """Waves of three frequencies; each read shifts the phase and adds noise."""

    def __len__(self):
        return 192

    def __getitem__(self, i):
        kind = i % 3
        t = torch.linspace(0, 6.28, 40)
        wave = torch.sin((kind + 1) * t + 6.28 * torch.rand(1)) + 0.1 * torch.randn(40)
        return wave[None], kind


def main():
    torch.manual_seed(0)
    loader = DataLoader(Augmented(), batch_size=16, shuffle=True, num_workers=2, persistent_workers=True)
    model = nn.Sequential(
        nn.Conv1d(1, 8, 7),
        nn.ReLU(),
        nn.Conv1d(8, 8, 7),
        nn.ReLU(),
        nn.AdaptiveMaxPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch in range(3):
        total = 0.0
        for x, y in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"{epoch} {total / len(loader):.6f}")


if __name__ == "__main__":
    main()
