import torch
from torch import nn


class TinyUNet(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU())
        self.mid = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.GroupNorm(3, 24), nn.ReLU())
        self.up = nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.out = nn.Conv2d(24, classes, 1)

    def forward(self, x):
        a = self.down(x)
        b = self.up(self.mid(a))
        return self.out(torch.cat([a, b], dim=1))


def sample(n):
    image = 0.2 * torch.randn(n, 1, 16, 16)
    mask = torch.zeros(n, 16, 16, dtype=torch.long)
    for i in range(n):
        for kind, value in ((1, 1.0), (2, -1.0)):
            r, c = torch.randint(0, 11, (2,)).tolist()
            image[i, 0, r : r + 5, c : c + 5] += value
            mask[i, r : r + 5, c : c + 5] = kind
    mask[:, 0, :] = 255
    return image, mask


torch.manual_seed(12)
net = TinyUNet(3)
optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
criterion = nn.CrossEntropyLoss(weight=torch.tensor([0.5, 1.0, 1.0]), ignore_index=255)
for it in range(40):
    net.train()
    image, mask = sample(8)
    loss = criterion(net(image), mask)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if it % 10 == 9:
        net.eval()
        with torch.no_grad():
            image, mask = sample(16)
            guess, seen = net(image).argmax(1), mask != 255
            iou = [
                ((guess == k) & (mask == k) & seen).sum().item() / (((guess == k) | (mask == k)) & seen).sum().item()
                for k in range(3)
            ]
        print(it + 1, loss.item(), [round(v, 4) for v in iou])
