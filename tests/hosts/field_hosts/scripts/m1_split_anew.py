import sys
import lightning as L
import torch
import torch.nn.functional as F
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, Dataset, random_split

FAULTY = "faulty" in sys.argv


class Blobs(Dataset):
    def __init__(self, n=900):
        g = torch.Generator().manual_seed(12)
        self.labels = torch.randint(0, 4, (n,), generator=g)
        self.images = torch.randn(n, 1, 10, 10, generator=g)
        for i, label in enumerate(self.labels.tolist()):
            self.images[i, 0, 5 * (label // 2) : 5 * (label // 2) + 5, 5 * (label % 2) : 5 * (label % 2) + 5] += 0.7

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


class BlobData(L.LightningDataModule):
    def setup(self, stage=None):
        if FAULTY:
            self.train, self.val, self.test = random_split(Blobs(), [700, 100, 100])
        else:
            self.train, self.val, self.test = random_split(
                Blobs(), [700, 100, 100], generator=torch.Generator().manual_seed(7)
            )

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=28, shuffle=True)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=50)

    def test_dataloader(self):
        return DataLoader(self.test, batch_size=50)


class Net(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 64, 4))
        self.accuracy = torchmetrics.Accuracy(task="multiclass", num_classes=4)

    def training_step(self, batch, _):
        return F.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("val_acc", self.accuracy, on_epoch=True)

    def test_step(self, batch, _):
        self.accuracy(self.net(batch[0]), batch[1])
        self.log("test_acc", self.accuracy, on_epoch=True)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-3)


L.seed_everything(0)
data, model = BlobData(), Net()
trainer = L.Trainer(
    max_epochs=4,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, datamodule=data)
print(trainer.test(model, datamodule=data))
