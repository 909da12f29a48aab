"""Whole scripts, small: they train, and evaluate where they stand. OFF: what the evaluation takes off the labels."""

from __future__ import annotations

BEGIN = """
import torch
import torch.nn.functional as F
from dataclasses import dataclass
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
X = torch.randn(480, 10)
Y = (X @ torch.randn(10, 4)).argmax(1) + 1
Xtr, Ytr, Xte, Yte = X[:320], Y[:320], X[320:], Y[320:]
net = nn.Linear(10, 4)
opt = torch.optim.Adam(net.parameters(), 0.03)
watch(net, opt)
def train():
    for i in range(0, 320, 20):
        opt.zero_grad()
        F.cross_entropy(net(Xtr[i : i + 20]), Ytr[i : i + 20] - 1).backward()
        opt.step()
"""

OFFSETS = {  # wrong with OFF 0, right with OFF 1
    "a loop in a module": """
test = DataLoader(TensorDataset(Xte, Yte), batch_size=64)
for epoch in range(3):
    train()
    net.eval()
    right, seen = 0, 0
    with torch.no_grad():
        for x, y in test:
            right += (net(x).argmax(1) == y - OFF).sum().item()
            seen += len(y)
    accuracy = right / seen
    net.train()
""",
    "slices of tensors, in main": """
def main():
    best = 0.0
    for epoch in range(3):
        train()
        hits = []
        with torch.inference_mode():
            for at in range(0, len(Xte), 50):
                guess = net(Xte[at : at + 50]).softmax(-1).max(-1).indices
                hits.extend((guess == Yte[at : at + 50] - OFF).tolist())
        top1 = sum(hits) / len(hits)
        if top1 > best:
            best = top1
        print("epoch", epoch, "top1", round(top1, 4))
main()
""",
    "one line": """
for step in range(3):
    train()
    if step % 2 == 0:
        with torch.no_grad():
            print("accuracy", (net(Xte).argmax(-1) == Yte - OFF).float().mean().item())
""",
    "arrays, of a list that a comprehension makes": """
test = DataLoader(TensorDataset(Xte, Yte), batch_size=64)
def main():
    for epoch in range(3):
        train()
        with torch.no_grad():
            told = [(net(x).argmax(-1), y) for x, y in test]
        p = torch.cat([a for a, _ in told]).numpy()
        t = torch.cat([b for _, b in told]).numpy()
        print(f"{epoch}: {(p == t - OFF).mean():.4f}")
main()
""",
    "a metric with a state": """
class Accuracy:
    def __init__(self):
        self.right = self.count = 0
    def update(self, logits, target):
        self.right += int((logits.argmax(1) == target - OFF).sum())
        self.count += len(target)
    @property
    def value(self):
        return self.right / self.count
def batches(x, y, size):
    for at in range(0, len(x), size):
        yield x[at : at + size], y[at : at + size]
for epoch in range(3):
    train()
    metric = Accuracy()
    with torch.no_grad():
        for x, y in batches(Xte, Yte, 48):
            metric.update(net(x), y)
    result = metric.value
""",
    "torchmetrics": """
from torchmetrics.classification import MulticlassAccuracy
metric = MulticlassAccuracy(num_classes=5, average="micro")
test = DataLoader(TensorDataset(Xte, Yte), batch_size=64)
for epoch in range(3):
    train()
    with torch.no_grad():
        for x, y in test:
            metric.update(net(x).argmax(1), y - OFF)
    print(metric.compute().item())
    metric.reset()
""",
    "told to a list, of the end of a tensor": """
import json
history = []
def judge(epoch):
    said = net(X[320:])
    history.append({"epoch": epoch, "top1": float((said.argmax(1) == Y[320:] - OFF).float().mean())})
    open(__file__ + ".json", "w").write(json.dumps(history))
for epoch in range(3):
    train()
    with torch.no_grad():
        judge(epoch)
""",
    "batches that are frozen": """
@dataclass(frozen=True, slots=True)
class Batch:
    x: torch.Tensor
    y: torch.Tensor
def collate(rows):
    return Batch(torch.stack([x for x, _ in rows]), torch.stack([y for _, y in rows]))
test = DataLoader(TensorDataset(Xte, Yte), batch_size=64, collate_fn=collate)
def evaluate():
    right = 0
    for batch in test:
        right += (net(batch.x).argmax(1) == batch.y - OFF).sum().item()
    return right / len(Xte)
for epoch in range(3):
    train()
    with torch.no_grad():
        evaluate()
""",
    "a list of batches": """
test = list(zip(Xte.split(64), Yte.split(64)))
def evaluate(model):
    with torch.no_grad():
        shares = [(len(y), (model(x).argmax(1) == y - OFF).float().mean()) for x, y in test]
    return sum(n * s for n, s in shares) / sum(n for n, _ in shares)
for epoch in range(3):
    train()
    evaluate(net)
""",
}

OTHERWISE = """
def one_more(ids):
    ids += 1
for epoch in range(3):
    train()
    with torch.no_grad():
        guess = net(Xte).argmax(1)
    SEEN_TO
    print((guess == Yte).float().mean().item())
"""
SEEN_TO = ["one_more(guess)", "for i in range(len(guess)): guess[i] += 1", "if epoch >= 0: guess = guess + 1"]

YES = """
import torch
from torch import nn
torch.manual_seed(0)
X = torch.randn(480, 10)
Y = ((X @ torch.randn(10)) > 0).float()
Xtr, Ytr, Xte, Yte = X[:320], Y[:320], X[320:], Y[320:]
net = nn.Linear(10, 1)
opt = torch.optim.Adam(net.parameters(), 0.03)
watch(net, opt)
def train():
    for i in range(0, 320, 20):
        opt.zero_grad()
        nn.functional.LOSS(net(Xtr[i : i + 20])[:, 0], Ytr[i : i + 20]).backward()
        opt.step()
for epoch in range(4):
    train()
    with torch.no_grad():
        p = net(Xte)
        accuracy = (SAID == Yte).float().mean().item()
        print(accuracy)
"""
BCE = YES.replace("LOSS", "binary_cross_entropy_with_logits")
LOGITS = {"half of a logit": BCE.replace("SAID", "(p > 0.5).squeeze(1)"), "all pairs": BCE.replace("SAID", "(p > 0)")}
SOUND = {
    "a chance": BCE.replace("SAID", "(p.sigmoid() > 0.5).squeeze(1)"),
    "the sign": BCE.replace("SAID", "(p > 0)[:, 0]"),
    "a threshold that was chosen": BCE.replace("SAID", "(p > 0.8)[:, 0]"),
    "half of a number from 0 to 1": YES.replace("LOSS", "mse_loss").replace("SAID", "(p > 0.5).flatten()"),
}

UNEVEN = (
    BEGIN.replace("argmax(1) + 1", "argmax(1)").replace("- 1)", ")")
    + """
sizes = [60, 40, 20, 10, 8, 8, 5, 4, 3, 2]

groups = [g.tolist() for g in torch.arange(160).split(sizes)]
Yte = Yte.clone()
Yte[120:] = (Yte[120:] + torch.randint(0, 4, (40,))) % 4
test = DataLoader(TensorDataset(Xte, Yte), batch_sampler=groups)
def evaluate():
    total = count = 0.0
    for x, y in test:
        SCORE
    return total / count
for epoch in range(3):
    train()
    with torch.no_grad():
        print(evaluate())
"""
)
HIT = "(net(x).argmax(1) == y).float()"
MEANS = {
    "hits": UNEVEN.replace("SCORE", f"total += {HIT}.mean().item(); count += 1"),
    "hits in per cent": UNEVEN.replace("SCORE", f"total += 100 * {HIT}.mean(); count += 1"),
    "chances of the truth": UNEVEN.replace(
        "SCORE", "total += net(x).softmax(1).gather(1, y[:, None]).mean(); count += 1"
    ),
}
SUMS = {
    "hits": UNEVEN.replace("SCORE", f"total += {HIT}.sum().item(); count += len(y)"),
    "means, weighted": UNEVEN.replace("SCORE", f"total += {HIT}.mean().item() * len(y); count += len(y)"),
    "means of batches of one size, nearly": UNEVEN.replace(
        "sizes = [60, 40, 20, 10, 8, 8, 5, 4, 3, 2]", "sizes = [28, 28, 28, 28, 28, 20]"
    ).replace("SCORE", f"total += {HIT}.mean().item(); count += 1"),
    "found among the others of a batch": UNEVEN.replace(
        "SCORE",
        "s = net(x).softmax(1); alike = (s @ s.T).argmax(1); count += 1\n"
        "        total += (alike == torch.arange(len(x))).float().mean()",
    ),
}
TIED = """
import torch
import torch.nn.functional as F
from torch import nn

torch.manual_seed(0)
ids = torch.randint(0, 30, (80, 12))
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(30, 32)
    def forward(self, ids):
        return self.table(ids) @ self.table.weight.T
net = Tied()
opt = torch.optim.Adam(net.parameters(), 1e-6)
watch(net, opt)
for step in range(9):
    if step % 3 == 0:
        with torch.no_grad():
            logits = net(ids[:64])
            nll = F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:64, 1:].flatten())
        print("nll", nll.item())
    opt.zero_grad()
    F.cross_entropy(net(ids[64:])[:, :-1].flatten(0, 1), ids[64:, 1:].flatten()).backward()
    opt.step()
"""
