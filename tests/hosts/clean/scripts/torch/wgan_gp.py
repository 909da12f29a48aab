import torch
from torch import autograd, nn, optim


class Critic(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(2, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 1))

    def forward(self, x):
        return self.main(x).view(-1)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(nn.Linear(4, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 2))

    def forward(self, z):
        return self.main(z)


def gradient_penalty(critic, real, fake):
    mix = torch.rand(len(real), 1)
    between = (mix * real + (1 - mix) * fake).requires_grad_(True)
    (grad,) = autograd.grad(critic(between).sum(), between, create_graph=True)
    return ((grad.norm(2, dim=1) - 1) ** 2).mean()


torch.manual_seed(9)
netD, netG = Critic(), Generator()
optD = optim.Adam(netD.parameters(), lr=1e-3, betas=(0.5, 0.9))
optG = optim.Adam(netG.parameters(), lr=1e-3, betas=(0.5, 0.9))
for iteration in range(25):
    for p in netD.parameters():
        p.requires_grad_(True)
    for _ in range(3):
        real = torch.randn(64, 2) * torch.tensor([1.0, 0.2]) + 1
        with torch.no_grad():
            fake = netG(torch.randn(64, 4))
        optD.zero_grad()
        loss = netD(fake).mean() - netD(real).mean() + 10 * gradient_penalty(netD, real, fake)
        loss.backward()
        optD.step()
    for p in netD.parameters():
        p.requires_grad_(False)
    optG.zero_grad()
    gen = -netD(netG(torch.randn(64, 4))).mean()
    gen.backward()
    optG.step()
    if iteration % 5 == 4:
        print(iteration + 1, loss.item(), gen.item())
