"""A straight-through sign activation written as an autograd Function."""

import torch


class SignSTE(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x.abs() <= 1).to(grad.dtype)


class BinaryNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = torch.nn.Linear(16, 64)
        self.norm = torch.nn.BatchNorm1d(64, affine=False)
        self.fc2 = torch.nn.Linear(64, 3)

    def forward(self, x):
        return self.fc2(SignSTE.apply(self.norm(self.fc1(x))))


torch.manual_seed(11)
means = 1.5 * torch.randn(3, 16)
net = BinaryNet()
adam = torch.optim.Adam(net.parameters(), lr=1e-2)
for it in range(60):
    target = torch.randint(3, (48,))
    data = means[target] + torch.randn(48, 16)
    adam.zero_grad()
    loss = torch.nn.functional.cross_entropy(net(data), target)
    loss.backward()
    adam.step()
    if it % 10 == 0:
        print(it, f"{loss.item():.6f}")
