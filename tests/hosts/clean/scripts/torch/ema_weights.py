import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

torch.manual_seed(5)
X = torch.randn(600, 10)
Y = ((X[:, 0] * X[:, 1] + X[:, 2]) > 0).long()
X_train, Y_train, X_val, Y_val = X[:480], Y[:480], X[480:], Y[480:]

model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95))
optimizer = torch.optim.NAdam(model.parameters(), lr=3e-3)

for epoch in range(8):
    model.train()
    order = torch.randperm(len(X_train))
    for start in range(0, len(order), 40):
        pick = order[start : start + 40]
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(X_train[pick]), Y_train[pick])
        loss.backward()
        optimizer.step()
        ema.update_parameters(model)
    model.eval()
    ema.eval()
    with torch.no_grad():
        raw = (model(X_val).argmax(1) == Y_val).float().mean().item()
        smooth = (ema(X_val).argmax(1) == Y_val).float().mean().item()
    print(f"{epoch} loss={loss.item():.6f} raw={raw:.3f} ema={smooth:.3f}")
