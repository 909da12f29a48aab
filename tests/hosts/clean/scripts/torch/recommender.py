import torch
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
users, items, rank = 60, 40, 4
taste, kind = torch.randn(users, rank), torch.randn(items, rank)
u = torch.randint(0, users, (1200,))
i = torch.randint(0, items, (1200,))
rating = (taste[u] * kind[i]).sum(1).tanh() * 2 + 3 + 0.1 * torch.randn(1200)


class Factors(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.user = torch.nn.Embedding(users, 8)
        self.item = torch.nn.Embedding(items, 8)
        self.user_bias = torch.nn.Embedding(users, 1)
        self.item_bias = torch.nn.Embedding(items, 1)
        self.mean = torch.nn.Parameter(rating.mean())
        for e in (self.user, self.item, self.user_bias, self.item_bias):
            torch.nn.init.normal_(e.weight, std=0.1)

    def forward(self, u, i):
        dot = (self.user(u) * self.item(i)).sum(-1)
        return self.mean + dot + self.user_bias(u).squeeze(-1) + self.item_bias(i).squeeze(-1)


train = DataLoader(TensorDataset(u[:1000], i[:1000], rating[:1000]), 50, shuffle=True)
model = Factors()
opt = torch.optim.Adam(model.parameters(), lr=0.02, weight_decay=1e-5)
for epoch in range(6):
    model.train()
    for bu, bi, br in train:
        loss = torch.nn.functional.mse_loss(model(bu, bi), br)
        opt.zero_grad()
        loss.backward()
        opt.step()
    model.eval()
    with torch.inference_mode():
        rmse = (model(u[1000:], i[1000:]) - rating[1000:]).square().mean().sqrt().item()
    print(epoch, round(loss.item(), 6), round(rmse, 6))
