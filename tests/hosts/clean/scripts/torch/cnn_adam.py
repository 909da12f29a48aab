"""Small convolutional net on drawn shapes: crosses, squares, stripes."""

import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset


class Shapes(Dataset):
    def __init__(self, n, seed):
        g = torch.Generator().manual_seed(seed)
        self.labels = torch.randint(0, 3, (n,), generator=g)
        self.images = 0.1 * torch.randn(n, 1, 16, 16, generator=g)
        for img, y in zip(self.images, self.labels):
            r, c = torch.randint(3, 10, (2,), generator=g).tolist()
            if y == 0:
                img[0, r : r + 5, c + 2] += 1
                img[0, r + 2, c : c + 5] += 1
            elif y == 1:
                img[0, r : r + 5, c : c + 5] += 1
            else:
                img[0, r : r + 5 : 2, c : c + 5] += 1

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.images[i], self.labels[i]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(16)
        self.dropout = nn.Dropout(0.25)
        self.fc1 = nn.Linear(16 * 4 * 4, 32)
        self.fc2 = nn.Linear(32, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.relu(self.fc1(torch.flatten(x, 1)))
        return self.fc2(self.dropout(x))


torch.manual_seed(1)
train_loader = DataLoader(Shapes(384, 0), batch_size=32, shuffle=True, drop_last=True)
val_loader = DataLoader(Shapes(96, 1), batch_size=64)
model = Net()
optimizer = optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-4)
scheduler = optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=5)

for epoch in range(5):
    model.train()
    running = 0.0
    for images, labels in train_loader:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        running += loss.item()
    scheduler.step()

    model.eval()
    hits, val_loss = 0, 0.0
    with torch.inference_mode():
        for images, labels in val_loader:
            logits = model(images)
            val_loss += F.cross_entropy(logits, labels, reduction="sum").item()
            hits += (logits.argmax(1) == labels).sum().item()
    print(epoch, running / len(train_loader), val_loss / len(val_loader.dataset), hits / len(val_loader.dataset))
