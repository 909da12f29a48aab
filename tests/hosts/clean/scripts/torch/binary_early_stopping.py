import copy

import torch
from torch import nn

torch.manual_seed(7)
n, d = 800, 12
features = torch.randn(n, d)
score = features[:, 0] + 0.5 * features[:, 1] ** 2 - 1.8
target = (score + 0.3 * torch.randn(n) > 0).float()
train_x, valid_x = features[:600], features[600:]
train_y, valid_y = target[:600], target[600:]

model = nn.Sequential(nn.Linear(d, 32), nn.LeakyReLU(), nn.Dropout(0.2), nn.Linear(32, 1))
pos_weight = (len(train_y) - train_y.sum()) / train_y.sum()
criterion = nn.BCEWithLogitsLoss(pos_weight=pos_weight)
optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)

best, best_state, patience = float("inf"), None, 0
for epoch in range(30):
    model.train()
    for idx in torch.randperm(len(train_x)).split(50):
        optimizer.zero_grad()
        logits = model(train_x[idx]).squeeze(1)
        loss = criterion(logits, train_y[idx])
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        val = criterion(model(valid_x).squeeze(1), valid_y).item()
    plateau.step(val)
    if val < best - 1e-4:
        best, best_state, patience = val, copy.deepcopy(model.state_dict()), 0
    else:
        patience += 1
        if patience == 4:
            print("stop at", epoch)
            break
    print(f"{epoch:2d} {loss.item():.5f} {val:.5f}")

model.load_state_dict(best_state)
model.eval()
with torch.no_grad():
    accuracy = ((model(valid_x).squeeze(1) > 0) == valid_y.bool()).float().mean()
print(f"best {best:.5f} accuracy {accuracy:.4f}")
