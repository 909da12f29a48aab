"""No module at all: tensors with requires_grad, gradients by torch.autograd, updates by hand and by an optimizer."""

import torch
import torch.nn.functional as F

torch.manual_seed(0)
w1 = (torch.randn(30, 5) / 5**0.5).requires_grad_()
b1 = torch.zeros(30, requires_grad=True)
w2 = (torch.randn(3, 30) / 30**0.5).requires_grad_()
b2 = torch.zeros(3, requires_grad=True)
truth = torch.randn(5, 3)


def model(x):
    return F.linear(F.relu(F.linear(x, w1, b1)), w2, b2)


for step in range(40):
    x = torch.randn(64, 5)
    loss = F.cross_entropy(model(x), (x @ truth).argmax(1))
    grads = torch.autograd.grad(loss, (w1, b1, w2, b2))
    with torch.no_grad():
        for p, g in zip((w1, b1, w2, b2), grads):
            p -= 0.2 * g
print("by hand", loss.item())

optimizer = torch.optim.SGD([w1, b1, w2, b2], lr=0.2)
for step in range(40):
    x = torch.randn(64, 5)
    loss = F.cross_entropy(model(x), (x @ truth).argmax(1))
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print("by SGD", loss.item())
