import sys
import lightning as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FAULTY = "faulty" in sys.argv


class RingGAN(L.LightningModule):
    def __init__(self, latent=8):
        super().__init__()
        self.automatic_optimization = False
        self.latent = latent
        self.generator = nn.Sequential(
            nn.Linear(latent, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 2)
        )
        self.critic = nn.Sequential(
            nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
        )
        self.bce = nn.BCEWithLogitsLoss()

    def training_step(self, batch, batch_idx):
        (real,) = batch
        opt_g, opt_d = self.optimizers()
        noise = torch.randn(real.size(0), self.latent, device=self.device)

        fake = self.generator(noise)
        ones = torch.ones(real.size(0), 1)
        d_real = self.critic(real)
        d_fake = self.critic(fake.detach())
        d_loss = self.bce(d_real, ones) + self.bce(d_fake, torch.zeros_like(ones))
        opt_d.zero_grad()
        self.manual_backward(d_loss)
        opt_d.step()

        g_loss = self.bce(self.critic(fake), ones)
        opt_g.zero_grad()
        self.manual_backward(g_loss)
        opt_g.step()
        self.log_dict({"d_loss": d_loss, "g_loss": g_loss}, prog_bar=True)

    def configure_optimizers(self):
        if FAULTY:
            opt_g = torch.optim.Adam(self.critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
        else:
            opt_g = torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.999))
        opt_d = torch.optim.Adam(self.critic.parameters(), lr=1e-3, betas=(0.5, 0.999))
        return opt_g, opt_d


L.seed_everything(1)
angle = torch.rand(1280) * 6.2832
ring = torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(1280, 2)
model = RingGAN()
trainer = L.Trainer(
    max_epochs=5,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(model, DataLoader(TensorDataset(ring), batch_size=64, shuffle=True))
with torch.no_grad():
    print("radius", model.generator(torch.randn(256, 8)).norm(dim=1).mean())
