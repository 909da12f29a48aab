import sys
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FAULTY = "faulty" in sys.argv


class Reg(L.LightningModule):
    def __init__(self, total_steps):
        super().__init__()
        self.total_steps = total_steps
        self.net = nn.Sequential(nn.Linear(8, 48), nn.GELU(), nn.Linear(48, 48), nn.GELU(), nn.Linear(48, 1))

    def training_step(self, batch, _):
        x, y = batch
        loss = nn.functional.huber_loss(self.net(x), y)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self):
        opt = torch.optim.AdamW(self.parameters(), lr=1e-3)
        sched = torch.optim.lr_scheduler.OneCycleLR(opt, max_lr=1e-2, total_steps=self.total_steps)
        if FAULTY:
            return [opt], [sched]
        else:
            return [opt], [{"scheduler": sched, "interval": "step"}]


torch.manual_seed(0)
x = torch.randn(960, 8)
y = (x[:, :1] + x[:, 1:2] ** 2).tanh()
loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
epochs = 5
trainer = L.Trainer(
    max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False
)
trainer.fit(Reg(epochs * len(loader)), loader)
