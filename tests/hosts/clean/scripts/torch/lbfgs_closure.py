import torch

torch.manual_seed(0)
x = torch.rand(200, 2) * 4 - 2
y = (x[:, :1] ** 2 - x[:, 1:]) * 0.5
net = torch.nn.Sequential(torch.nn.Linear(2, 20), torch.nn.Tanh(), torch.nn.Linear(20, 1))
optimizer = torch.optim.LBFGS(net.parameters(), lr=0.5, max_iter=5, history_size=8)


def closure():
    optimizer.zero_grad()
    loss = torch.nn.functional.mse_loss(net(x), y)
    loss.backward()
    return loss


for step in range(15):
    loss = optimizer.step(closure)
    print(step, loss.item())
