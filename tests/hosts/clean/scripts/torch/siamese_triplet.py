import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Triplets(Dataset):
    def __init__(self, n=320, classes=6, seed=0):
        g = torch.Generator().manual_seed(seed)
        centres = torch.randn(classes, 18, generator=g)
        self.y = torch.randint(classes, (n,), generator=g)
        self.x = centres[self.y] + 0.8 * torch.randn(n, 18, generator=g)

    def __len__(self):
        return len(self.y)

    def __getitem__(self, i):
        same = (self.y == self.y[i]).nonzero().flatten()
        other = (self.y != self.y[i]).nonzero().flatten()
        p = same[torch.randint(len(same), ())]
        n = other[torch.randint(len(other), ())]
        return self.x[i], self.x[p], self.x[n]


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(18, 40), nn.PReLU(), nn.Linear(40, 8))

    def forward(self, x):
        return nn.functional.normalize(self.body(x))


if __name__ == "__main__":
    torch.manual_seed(21)
    net = Embedder()
    loss_fn = nn.TripletMarginLoss(margin=0.5)
    opt = torch.optim.Adam(net.parameters(), 2e-3)
    for epoch in range(6):
        losses = []
        for a, p, n in DataLoader(Triplets(), batch_size=32, shuffle=True):
            loss = loss_fn(net(a), net(p), net(n))
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses.append(loss.item())
        print(epoch, sum(losses) / len(losses))
