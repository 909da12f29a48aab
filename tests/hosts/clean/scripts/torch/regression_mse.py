import math

import torch

torch.manual_seed(42)
x = torch.linspace(-math.pi, math.pi, 400).unsqueeze(1)
y = torch.sin(x) + 0.05 * torch.randn_like(x)

net = torch.nn.Sequential(
    torch.nn.Linear(1, 24),
    torch.nn.Tanh(),
    torch.nn.Linear(24, 24),
    torch.nn.Tanh(),
    torch.nn.Linear(24, 1),
)
loss_fn = torch.nn.MSELoss()
opt = torch.optim.RMSprop(net.parameters(), lr=3e-3)

for t in range(150):
    y_pred = net(x)
    loss = loss_fn(y_pred, y)
    if t % 25 == 24:
        print(t, loss.item())
    opt.zero_grad()
    loss.backward()
    opt.step()

with torch.no_grad():
    print("error at 1:", (net(torch.tensor([[1.0]])) - math.sin(1.0)).abs().item())
