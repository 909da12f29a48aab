import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Deep(nn.Module):
    def __init__(self, depth=6, width=32):
        super().__init__()
        self.stem = nn.Linear(12, width)
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 2 * width),
                nn.GELU(),
                nn.Dropout(0.1),
                nn.Linear(2 * width, width),
            )
            for _ in range(depth)
        )
        self.head = nn.Linear(width, 7)

    def forward(self, x):
        x = self.stem(x)
        for layer in self.layers:
            if self.training:
                x = x + checkpoint(layer, x, use_reentrant=False)
            else:
                x = x + layer(x)
        return self.head(x)


torch.manual_seed(8)
rule = torch.randn(12, 7)
net = Deep()
opt = torch.optim.AdamW(net.parameters(), lr=1e-3)
for step in range(50):
    x = torch.randn(32, 12)
    y = (x @ rule).argmax(-1)
    loss = nn.functional.cross_entropy(net(x), y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 10 == 9:
        print(step + 1, loss.item())
net.eval()
with torch.no_grad():
    x = torch.randn(200, 12)
    print("accuracy", (net(x).argmax(-1) == (x @ rule).argmax(-1)).float().mean().item())
