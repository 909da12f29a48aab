import torch, torch.nn as nn, torch.nn.functional as F
from torch.utils.data import TensorDataset, DataLoader, random_split

torch.manual_seed(11)

# sequence classification with an LSTM: which half has the larger sum
X = torch.randn(1500, 20, 3)
Y = (X[:, :10, 0].sum(1) > X[:, 10:, 0].sum(1)).long()
train_set, test_set = random_split(TensorDataset(X, Y), [1200, 300])
train_dl = DataLoader(train_set, 32, shuffle=True)
test_dl = DataLoader(test_set, 64)


class LSTMClassifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(3, 32, batch_first=True)
        self.head = nn.Linear(32, 2)

    def forward(self, x):
        _, (h, _) = self.lstm(x)
        return self.head(h[-1])


def train_one_epoch(model, dl, opt):
    model.train()
    tot = 0
    for xb, yb in dl:
        opt.zero_grad()
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        tot += loss.item()
    return tot / len(dl)


@torch.inference_mode()
def test(model, dl):
    model.eval()
    return sum((model(x).argmax(1) == y).sum().item() for x, y in dl) / len(dl.dataset)


model = LSTMClassifier()
opt = torch.optim.Adam(model.parameters(), 5e-3)
for ep in range(5):
    print(ep, train_one_epoch(model, train_dl, opt), test(model, test_dl))
