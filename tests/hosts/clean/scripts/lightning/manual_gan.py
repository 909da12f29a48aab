"""Two optimizers by manual optimization, a checkpoint and a reload."""

import lightning as L
import torch
from torch import nn


class GAN(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 24), nn.ReLU(), nn.Linear(24, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 24), nn.LeakyReLU(0.2), nn.Linear(24, 1))

    def training_step(self, real):
        opt_g, opt_d = self.optimizers()
        bce = nn.functional.binary_cross_entropy_with_logits
        z = torch.randn(len(real), 4)

        self.toggle_optimizer(opt_d)
        score_real, score_fake = self.discriminator(real), self.discriminator(self.generator(z).detach())
        loss_d = bce(score_real, torch.ones_like(score_real)) + bce(score_fake, torch.zeros_like(score_fake))
        opt_d.zero_grad()
        self.manual_backward(loss_d)
        opt_d.step()
        self.untoggle_optimizer(opt_d)

        self.toggle_optimizer(opt_g)
        score = self.discriminator(self.generator(z))
        loss_g = bce(score, torch.ones_like(score))
        opt_g.zero_grad()
        self.manual_backward(loss_g)
        opt_g.step()
        self.untoggle_optimizer(opt_g)
        self.log_dict({"d": loss_d, "g": loss_g})

    def configure_optimizers(self):
        return (
            torch.optim.Adam(self.generator.parameters(), lr=1e-3, betas=(0.5, 0.9)),
            torch.optim.Adam(self.discriminator.parameters(), lr=1e-3, betas=(0.5, 0.9)),
        )


L.seed_everything(1, verbose=False)
points = torch.randn(256, 2) * 0.3 + torch.tensor([1.0, -1.0])
trainer = L.Trainer(
    max_epochs=3,
    accelerator="cpu",
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
gan = GAN()
trainer.fit(gan, torch.utils.data.DataLoader(points, 32, shuffle=True))
print({k: round(v.item(), 6) for k, v in trainer.callback_metrics.items()})
trainer.save_checkpoint("gan.ckpt")
again = GAN.load_from_checkpoint("gan.ckpt")
print(torch.equal(again.generator[0].weight, gan.generator[0].weight))
