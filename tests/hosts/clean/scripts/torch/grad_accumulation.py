import torch
from torch import nn

ACCUMULATE = 4
EPOCHS = 8
WARMUP = 5


class ResidualMLP(nn.Module):
    def __init__(self, width=48, depth=3, classes=5):
        super().__init__()
        self.inp = nn.Linear(20, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1))
            for _ in range(depth)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        x = self.inp(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


torch.manual_seed(3)
centers = torch.randn(5, 20)
labels = torch.randint(0, 5, (256,))
inputs = centers[labels] + 0.7 * torch.randn(256, 20)
dataset = torch.utils.data.TensorDataset(inputs, labels)
loader = torch.utils.data.DataLoader(dataset, batch_size=8, shuffle=True)

model = ResidualMLP()
steps = EPOCHS * len(loader) // ACCUMULATE
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
schedule = torch.optim.lr_scheduler.LambdaLR(
    optimizer, lambda s: (s + 1) / WARMUP if s < WARMUP else max(0.0, (steps - s) / (steps - WARMUP))
)
criterion = nn.CrossEntropyLoss()

model.train()
step = 0
for epoch in range(EPOCHS):
    running = 0.0
    for i, (x, y) in enumerate(loader):
        loss = criterion(model(x), y) / ACCUMULATE
        loss.backward()
        running += loss.item()
        if (i + 1) % ACCUMULATE == 0:
            norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
    mean = running * ACCUMULATE / len(loader)
    print(f"epoch {epoch}: loss {mean:.5f} norm {norm:.4f} lr {schedule.get_last_lr()[0]:.2e}")
print("optimizer steps", step, "of", steps)
