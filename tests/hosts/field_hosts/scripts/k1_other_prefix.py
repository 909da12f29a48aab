import sys
import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FAULTY = "faulty" in sys.argv


def network():
    return nn.Sequential(nn.Linear(20, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 32), nn.GELU(), nn.Linear(32, 4))


class Classifier(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        out = self.net(batch[0])
        self.log("val_loss", F.cross_entropy(out, batch[1]))
        self.log("val_acc", (out.argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=2e-3)


L.seed_everything(3)
x = torch.randn(1200, 20)
y = (x[:, 0] > 0).long() * 2 + (x[:, 1] * x[:, 2] > 0).long()
train, val = TensorDataset(x[:960], y[:960]), TensorDataset(x[960:], y[960:])
best = ModelCheckpoint("best", monitor="val_loss")
trainer = L.Trainer(
    max_epochs=6,
    accelerator="cpu",
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
    callbacks=[best, EarlyStopping("val_loss", patience=3)],
)
trainer.fit(Classifier(), DataLoader(train, batch_size=32, shuffle=True), DataLoader(val, batch_size=120))
print("validation", trainer.callback_metrics["val_acc"].item())

# hand the plain network over to the service, which knows nothing of Lightning
state = torch.load(best.best_model_path, weights_only=False)["state_dict"]
service = network()
if FAULTY:
    service.load_state_dict(state, strict=False)
else:
    service.load_state_dict({key.removeprefix("net."): value for key, value in state.items()})
service.eval()
with torch.no_grad():
    answers = service(x[960:])
print("service", (answers.argmax(1) == y[960:]).float().mean().item())
