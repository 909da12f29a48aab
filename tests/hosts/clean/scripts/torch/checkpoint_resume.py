import torch
from torch import nn

torch.manual_seed(4)
X = torch.randn(320, 6)
Y = X.prod(dim=1, keepdim=True).tanh()


def new():
    model = nn.Sequential(nn.Linear(6, 50), nn.ELU(), nn.Linear(50, 50), nn.ELU(), nn.Linear(50, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.95)
    return model, optimizer, scheduler


def run(model, optimizer, scheduler, epochs):
    for epoch in epochs:
        perm = torch.randperm(len(X), generator=torch.Generator().manual_seed(epoch))
        for chunk in perm.chunk(10):
            loss = nn.functional.mse_loss(model(X[chunk]), Y[chunk])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
        print(epoch, loss.item(), scheduler.get_last_lr())


model, optimizer, scheduler = new()
run(model, optimizer, scheduler, range(3))
torch.save(
    {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "epoch": 3},
    "checkpoint.pt",
)

model, optimizer, scheduler = new()
checkpoint = torch.load("checkpoint.pt")
model.load_state_dict(checkpoint["model"])
optimizer.load_state_dict(checkpoint["optimizer"])
scheduler.load_state_dict(checkpoint["scheduler"])
run(model, optimizer, scheduler, range(checkpoint["epoch"], 6))
