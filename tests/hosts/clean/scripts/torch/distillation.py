import torch
import torch.nn as nn
import torch.nn.functional as F

torch.manual_seed(0)
spots = 1.6 * torch.randn(6, 10)


def batch(n=48):
    y = torch.randint(0, 6, (n,))
    return spots[y] + torch.randn(n, 10), y


teacher = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 6))
opt = torch.optim.Adam(teacher.parameters(), lr=5e-3)
for _ in range(80):
    x, y = batch()
    opt.zero_grad()
    F.cross_entropy(teacher(x), y).backward()
    opt.step()
teacher.eval()

student = nn.Sequential(nn.Linear(10, 12), nn.ReLU(), nn.Linear(12, 6))
opt = torch.optim.Adam(student.parameters(), lr=1e-2)
tau, alpha = 2.0, 0.7
for step in range(100):
    x, y = batch()
    with torch.no_grad():
        soft = F.softmax(teacher(x) / tau, dim=-1)
    logits = student(x)
    kd = F.kl_div(F.log_softmax(logits / tau, dim=-1), soft, reduction="batchmean") * tau**2
    loss = alpha * kd + (1 - alpha) * F.cross_entropy(logits, y)
    opt.zero_grad()
    loss.backward()
    opt.step()
    if step % 25 == 24:
        print(step + 1, loss.item())
student.eval()
with torch.no_grad():
    x, y = batch(400)
    print("teacher", (teacher(x).argmax(1) == y).float().mean().item())
    print("student", (student(x).argmax(1) == y).float().mean().item())
