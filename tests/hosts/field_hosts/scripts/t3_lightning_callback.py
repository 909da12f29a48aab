import sys
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FAULTY = "faulty" in sys.argv


class Conv(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.3)
        )
        self.head = nn.Linear(8 * 8 * 8, 4)

    def forward(self, x):
        return self.head(self.features(x).flatten(1))

    def training_step(self, batch, _):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


def data(n, seed):
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (n,), generator=g)
    x = torch.randn(n, 1, 16, 16, generator=g) * 0.5
    for i, c in enumerate(y.tolist()):
        r, q = divmod(c, 2)
        x[i, 0, r * 8 : r * 8 + 8, q * 8 : q * 8 + 8] += 1
    return TensorDataset(x, y)


@torch.no_grad()
def accuracy(model, loader):
    if not FAULTY:
        model.eval()
    hits = total = 0
    for x, y in loader:
        hits += (model(x).argmax(1) == y).sum().item()
        total += len(y)
    if not FAULTY:
        model.train()
    return hits / total


class Report(L.Callback):
    def __init__(self, loader):
        self.loader = loader

    def on_train_epoch_end(self, trainer, module):
        print("epoch", trainer.current_epoch, "accuracy", accuracy(module, self.loader))


L.seed_everything(1)
model = Conv()
test = DataLoader(data(64, 1), batch_size=16)
trainer = L.Trainer(
    max_epochs=3,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    callbacks=[Report(test)],
)
trainer.fit(model, DataLoader(data(320, 0), batch_size=32, shuffle=True))
