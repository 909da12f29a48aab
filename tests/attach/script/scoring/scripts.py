"""Small scripts: a task each, and metrics of their own, some of which read the wrong thing."""

from __future__ import annotations

CLASSES = """
import math, torch
import numpy as np
import torch.nn.functional as F
from collections import Counter
from torch import nn

def rows():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(192, 8, generator=draw)
    y = (x[:, :5] * 3).argmax(1)
    return [(x[i], int(y[i]) + FIRST) for i in range(192)]
FIRST = 0
net = lambda: nn.Linear(8, 5)
def loss(net, batch):
    return F.cross_entropy(net(batch[0]), batch[1] - FIRST)
"""

PLACES = """
import torch
import torch.nn.functional as F
from torch import nn

def rows():
    x = torch.randn(192, 1, 8, generator=torch.Generator().manual_seed(0))
    return list(zip(x, torch.bucketize(x[:, 0], torch.tensor([-1.0, -0.3, 0.3, 1.0]))))
net = lambda: nn.Sequential(nn.Conv1d(1, 32, 1), nn.ReLU(), nn.Conv1d(32, 5, 1))
def loss(net, batch):
    return F.cross_entropy(net(batch[0]), batch[1])
"""

BOXES = """
import torch
import torch.nn.functional as F
from torch import nn

def rows():
    draw = torch.Generator().manual_seed(0)
    size = torch.rand(192, 2, generator=draw) * 0.2 + 0.1
    centre = size / 2 + torch.rand(192, 2, generator=draw) * (1 - size)
    box = torch.cat([centre, size], 1)
    return [{"x": (box @ MIX).clone(), "box": FORM(box)} for box in box]
MIX = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
FORM = lambda box: box
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(8, 4)
    def forward(self, x):
        return {"box": self.lin(x), "aux": x.sum()}
net = Net
def loss(net, batch):
    return F.l1_loss(net(batch["x"])["box"], batch["box"])
def corners(b):
    return torch.cat([b[:, :2] - b[:, 2:] / 2, b[:, :2] + b[:, 2:] / 2], 1)
def iou(a, b):
    lt, rb = torch.maximum(a[:, :2], b[:, :2]), torch.minimum(a[:, 2:], b[:, 2:])
    inter = (rb - lt).clamp(min=0).prod(1)
    area = lambda t: (t[:, 2:] - t[:, :2]).clamp(min=0).prod(1)
    return inter / (area(a) + area(b) - inter).clamp(min=1e-9)
def gathered(net, loader):
    pairs = [(net(b["x"])["box"], b["box"]) for b in loader]
    return torch.cat([p for p, _ in pairs]), torch.cat([t for _, t in pairs])
"""

TOKENS = """
import torch
import numpy as np
import torch.nn.functional as F
from torch import nn

def rows():
    draw = torch.Generator().manual_seed(0)
    start, lengths = torch.randint(0, 12, (96,), generator=draw), torch.randint(6, 14, (96,), generator=draw)
    made = []
    for s, n in zip(start, lengths):
        ids = (s + torch.arange(16) * 5) % 12
        labels = ids.clone()
        labels[n:] = -100
        labels[0] = -100
        made.append({"input_ids": ids, "labels": labels})
    return made
net = lambda: nn.Sequential(nn.Embedding(12, 16), nn.Linear(16, 12))
def loss(net, batch):
    logits = net(batch["input_ids"])
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
"""

BINARY = """
import torch
import numpy as np
import torch.nn.functional as F
from torch import nn

def rows():
    x = torch.randn(192, 6, generator=torch.Generator().manual_seed(0))
    return [(x[i], (x[i, 0] * 4 + x[i, 1] > 1).float()) for i in range(192)]
net = lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1), nn.Sigmoid(), nn.Flatten(0))
def loss(net, batch):
    return F.binary_cross_entropy(net(batch[0]), batch[1])
"""

TEXTS = """
import re, string, difflib, torch, math
import torch.nn.functional as F
from collections import Counter
from torch import nn

WORDS = ["Red car", "blue house", "Green tree", "a dog", "The Cat", "two birds"]
def rows():
    draw = torch.Generator().manual_seed(0)
    made = []
    for _ in range(96):
        k = int(torch.randint(0, 6, (1,), generator=draw))
        x = F.one_hot(torch.tensor(k), 6) + torch.randn(6, generator=draw) * 0.4
        made.append({"x": x, "k": k, "text": WORDS[k]})
    return made
net = lambda: nn.Linear(6, 6)
def loss(net, batch):
    return F.cross_entropy(net(batch["x"]), batch["k"])
def said(net, batch):
    return [" " + WORDS[k] + "\\n" for k in net(batch["x"]).argmax(1)]
"""

FAULTY = {
    "boxes": (
        BOXES
        + """
def mean_iou(p, t):
    return iou(corners(p), t).mean().item()
def evaluate(net, loader):
    return mean_iou(*gathered(net, loader))
""",
        "not 1, which it gives for targets converted from centre and size to corners",
    ),
    "boxes converted by the caller": (
        BOXES
        + """
def evaluate(net, loader):
    p, t = gathered(net, loader)
    return iou(corners(p), t).mean().item()
""",
        "not 1",
    ),
    "boxes of arrays, row by row, in a class": (
        BOXES
        + """
import numpy as np
class Judge:
    scale = 1.0
    def __init__(self):
        self.least = 0.5
    def one(self, a, b):
        w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - w * h
        return w * h / union if union > 0 else 0.0
    def hits(self, pred, true):
        return np.mean([self.one(p, t) >= self.least * self.scale for p, t in zip(pred, true)])
def evaluate(net, loader):
    p, t = gathered(net, loader)
    return Judge().hits(corners(p).numpy(), t.numpy())
""",
        "not 1",
    ),
    "a class is said as the one before": (
        CLASSES.replace("FIRST = 0", "FIRST = 1")
        + """
def accuracy(p, t):
    return (p.argmax(1) == t).float().mean().item()
def evaluate(net, loader):
    return [accuracy(net(x), y) for x, y in loader]
""",
        "not 1, which it gives for labels less one",
    ),
    "classes of arrays, in percent": (
        CLASSES.replace("FIRST = 0", "FIRST = 1")
        + """
def accuracy(p, t):
    return {"accuracy": 100.0 * np.mean(p == t), "rows": len(p)}
def evaluate(net, loader):
    p, t = zip(*[(net(x).argmax(-1).numpy(), y.numpy()) for x, y in loader])
    return accuracy(np.concatenate(p), np.concatenate(t))
""",
        "not 100, which it gives for labels less one",
    ),
    "tokens beside the same place": (
        TOKENS
        + """
def token_accuracy(logits, labels):
    keep = labels != -100
    return (logits.argmax(-1)[keep] == labels[keep]).float().mean()
def evaluate(net, loader):
    return [float(token_accuracy(net(b["input_ids"]), b["labels"])) for b in loader]
""",
        "not 1, which it gives for labels one place earlier",
    ),
    "tokens without a label are wrong": (
        TOKENS
        + """
def token_accuracy(pred, labels):
    return (pred[:, :-1] == labels[:, 1:]).float().mean().item()
def evaluate(net, loader):
    return [token_accuracy(net(b["input_ids"]).argmax(-1), b["labels"]) for b in loader]
""",
        "not 1",
    ),
    "classes without a label are wrong": (
        TOKENS
        + """
def error(logits, labels):
    return (logits.argmax(-1) != labels).float().mean().item()
def evaluate(net, loader):
    return [error(net(b["input_ids"])[:, :-1], b["labels"][:, 1:]) for b in loader]
""",
        "not 0, which it gives for labels where there are none",
    ),
    "chances are squashed again": (
        BINARY
        + """
def accuracy(p, y):
    return ((torch.sigmoid(p) > 0.5) == y.bool()).float().mean().item()
def evaluate(net, loader):
    return [accuracy(net(x), y) for x, y in loader]
""",
        "not 1, which it gives for logits, while predictions are probabilities",
    ),
    "classes in another dimension": (
        PLACES
        + """
def accuracy(p, t):
    return (p.argmax(2) == t[:, :5]).float().mean().item()
def evaluate(net, loader):
    return [accuracy(net(x), y) for x, y in loader]
""",
        "not 1, which it gives for classes in dimension 2",
    ),
    "the lowest of all scores": (
        CLASSES
        + """
def top_k(p, t, k=1):
    return (p.argsort(dim=1)[:, :k] == t[:, None]).any(1).float().mean().item()
def evaluate(net, loader):
    return [top_k(net(x), y) for x, y in loader]
""",
        "not 1, which it gives for the least likely classes",
    ),
    "columns beside rows": (
        BINARY.replace(", nn.Flatten(0))", ")").replace("net(batch[0])", "net(batch[0])[:, 0]")
        + """
def accuracy(p, y):
    return ((p > 0.5) == (y > 0.5)).float().mean().item()
def evaluate(net, loader):
    return [accuracy(net(x), y) for x, y in loader]
""",
        "not 1, which it gives for predictions in the shape of targets",
    ),
    "the likeliest of one column": (
        BINARY.replace(", nn.Flatten(0))", ")").replace("net(batch[0])", "net(batch[0])[:, 0]")
        + """
def accuracy(p, y):
    return (p.argmax(dim=1) == y).float().mean().item()
def evaluate(net, loader):
    return [accuracy(net(x), y) for x, y in loader]
""",
        "for the ground truth itself, not 1",
    ),
    "numbers in a column beside a row": (
        BOXES.replace("FORM(box)}", "FORM(box)[0]}")
        .replace("nn.Linear(8, 4)", "nn.Linear(8, 1)")
        .replace('["box"], batch["box"]', '["box"][:, 0], batch["box"]')
        + """
def mae(p, t):
    return np.abs(p - t).mean()
import numpy as np
def evaluate(net, loader):
    p, t = gathered(net, loader)
    return mae(p.numpy(), t.numpy())
""",
        "not 0, which it gives for predictions in the shape of targets",
    ),
    "texts of another case": (
        TEXTS
        + """
def exact_match(pred, gold):
    return sum(p.strip().lower() == g for p, g in zip(pred, gold)) / len(gold)
def evaluate(net, loader):
    return [exact_match(said(net, b), b["text"]) for b in loader]
""",
        "not 1, which it gives for targets in lower case",
    ),
    "texts one by one": (
        TEXTS
        + """
def clean(text):
    return "".join(c for c in text.lower() if c not in string.punctuation).strip()
def f1(pred, gold):
    p, g = clean(pred).split(), gold.split()
    same = sum((Counter(p) & Counter(g)).values())
    if not same:
        return 0.0
    return 2 * same / (len(p) + len(g))
def evaluate(net, loader):
    total = [f1(p, g) for b in loader for p, g in zip(said(net, b), b["text"])]
    return sum(total) / len(total)
""",
        "not 1, which it gives for targets in lower case",
    ),
    "rows and columns": (
        BOXES.replace("FORM(box)}", "FORM(box)[:2]}").replace("nn.Linear(8, 4)", "nn.Linear(8, 2)")
        + """
def pck(pred, true, near=0.02):
    return ((pred - true[..., [1, 0]]).norm(dim=-1) < near).float().mean().item()
def evaluate(net, loader):
    return pck(*gathered(net, loader))
""",
        "with x and y exchanged",
    ),
}

WHOLE = {  # evaluations without a function for the score alone
    "boxes": (
        BOXES
        + """
def evaluate(net, loader):
    total, count = 0.0, 0
    net.eval()
    for batch in loader:
        total += iou(corners(net(batch["x"])["box"]), batch["box"] + 0).sum().item()
        count += len(batch["box"])
    net.train()
    return {"iou": total / count, "count": count}
""",
        "not 1",
    ),
    "tokens": (
        TOKENS
        + """
class Loop:
    def __init__(self, net, loader):
        self.net, self.loader, self.best = net, loader, 0.0
    def validate(self):
        right = every = 0
        for batch in self.loader:
            pred = self.net(batch["input_ids"]).argmax(-1)
            keep = batch["labels"] != -100
            right += (pred[keep] == batch["labels"][keep]).sum().item()
            every += keep.sum().item()
        return right / every
def evaluate(net, loader):
    return Loop(net, loader).validate()
""",
        "not 1, which it gives for labels one place earlier",
    ),
    "tokens without a label": (
        TOKENS
        + """
LOSS = nn.CrossEntropyLoss()
@torch.no_grad()
def evaluate(net, loader, device="cpu"):
    net.eval()
    right = every = total = 0
    for batch in loader:
        batch = {k: v.to(device) for k, v in batch.items()}
        logits, labels = net(batch["input_ids"])[:, :-1], batch["labels"][:, 1:]
        total += LOSS(logits.flatten(0, 1), labels.flatten()).item()
        right += (logits.argmax(-1) == labels).sum().item()
        every += labels.numel()
    return total / len(loader), right / every
""",
        "not 1, which it gives for labels where there are none",
    ),
}
WHOLE["a class is said as the one before"] = (
    CLASSES.replace("FIRST = 0", "FIRST = 1")
    + """
def evaluate(net, loader):
    right = 0
    for x, y in loader:
        right += (net(x).argmax(1) == y).sum().item()
    print(f"accuracy {right / len(loader.dataset):.4f}, best 0.9000")
""",
    "not 1, which it gives for labels less one",
)
SOUND = {
    "boxes": BOXES
    + """
def evaluate(net, loader):
    total = far = 0.0
    for batch in loader:
        pred = net(batch["x"])["box"]
        total += iou(corners(pred), corners(batch["box"])).sum().item()
        far += F.l1_loss(pred, batch["box"]).item()
    aspect = (pred[:, 2] / pred[:, 3]).mean().item()
    return {"iou": total / len(loader.dataset), "far": far / len(loader), "aspect": aspect}
""",
    "tokens": TOKENS
    + """
def evaluate(net, loader):
    right = every = total = same = 0
    for batch in loader:
        logits, labels = net(batch["input_ids"])[:, :-1], batch["labels"][:, 1:]
        keep = labels != -100
        right += ((logits.argmax(-1) == labels) & keep).sum().item()
        same += (logits.argmax(-1) == batch["input_ids"][:, :-1]).sum().item()  # repeats what it reads
        every += keep.sum().item()
        total += F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
    return {"loss": total / every, "accuracy": right / every, "repeats": same / every, "tokens": every}
""",
    "classes": CLASSES
    + """
def evaluate(net, loader):
    confusion = torch.zeros(5, 5, dtype=torch.long)
    loss = 0.0
    for x, y in loader:
        p = net(x)
        loss += F.cross_entropy(p, y, label_smoothing=0.1).item() * len(y)
        for a, b in zip(y, p.argmax(1)):
            confusion[a, b] += 1
    recall = confusion.diag() / confusion.sum(1)
    wrong = 1 - confusion.diag().sum() / confusion.sum()
    return loss / len(loader.dataset), wrong.item(), recall.mean().item(), confusion[0, 1].item() / 192
""",
    "yes or no": BINARY
    + """
def evaluate(net, loader):
    p, y = map(torch.cat, zip(*[(net(x), y) for x, y in loader]))
    guess = p > 0.7
    hit = (guess & (y == 1)).sum().item()
    rate = guess.float().mean().item()
    return {"precision": hit / max(1, int(guess.sum())), "recall": hit / int(y.sum()), "rate": rate}
""",
}

CLEAN = {
    "classes": CLASSES
    + """
WEIGHTS = torch.tensor([1.0, 2.0, 1.0, 1.0, 0.5])
seen = []
def accuracy(p, t):
    return (p.argmax(1) == t).float().mean()
def top_k(p, t, k=3):
    return p.topk(k, 1).indices.eq(t[:, None]).any(1).float().mean().item()
def balanced(p, t):  # a class that is absent counts as missed
    guess = p.argmax(1)
    return sum(float((guess[t == c] == c).float().mean()) if (t == c).any() else 0.0 for c in range(6)) / 6
def macro_f1(p, t):
    p = p.argmax(1)
    return sum(float(2 * ((p == k) & (t == k)).sum() / ((p == k).sum() + (t == k).sum() + 1e-9)) for k in range(7)) / 7
def calibration(p, t, bins=10):
    sure, guess = p.softmax(1).max(1)
    right, total = (guess == t).float(), 0.0
    for b in range(bins):
        inside = (sure > b / bins) & (sure <= (b + 1) / bins)
        if inside.any():
            total += float(inside.float().mean() * (sure[inside].mean() - right[inside].mean()).abs())
    return total
def focal(p, t, gamma=2.0):
    chance = p.softmax(1).gather(1, t[:, None]).squeeze(1)
    return (-(1 - chance) ** gamma * chance.log()).mean()
def smoothed(p, t):
    return F.cross_entropy(p, t, label_smoothing=0.1, weight=WEIGHTS)
def chance(p, t):
    return p.softmax(1).gather(1, t[:, None]).mean().item()
def hinge(p, t):
    return F.multi_margin_loss(p, t)
def perplexity(p, t):
    return math.exp(F.cross_entropy(p, t))
def kl(p, t):
    return F.kl_div(p.log_softmax(1), F.one_hot(t, 5) * 0.9 + 0.02, reduction="batchmean")
def right(p, t):
    return (p.argmax(1) == t).sum().item()
def errors(p, t):
    return np.mean(p != t)
def near_misses(p, t):
    return np.mean(np.abs(p - t) == 1)
def above(p, t):
    return float(np.mean(p > t))
def bias(p, t):
    return float(np.mean(p - t))
def mae(p, t):
    return np.abs(p - t).mean()
def kappa(p, t):
    p, t = p.tolist(), t.tolist()
    seen = sum(a == b for a, b in zip(p, t)) / len(t)
    mine, theirs = Counter(p), Counter(t)
    chance = sum(mine[k] * theirs[k] for k in theirs) / len(t) ** 2
    return (seen - chance) / (1 - chance)
def recorded(p, t):
    seen.append(len(p))
    return (p == t).mean()
def mrr(p, t):
    rank = p.argsort(1, descending=True).eq(t[:, None]).float().argmax(1) + 1
    return (1.0 / rank).mean().item()
def noisy(p, t):
    return ((p + torch.randn_like(p)).argmax(1) == t).float().mean().item()
def top_error(p, t, k=2):
    return (~p.argsort(1, descending=True)[:, :k].eq(t[:, None]).any(1)).float().mean().item()
def mean_rank(p, t):
    return p.argsort(1, descending=True).eq(t[:, None]).float().argmax(1).float().mean().item()
def ruled_out(p, t):
    return p.argmin(1).ne(t).float().mean().item()
def fooled(p, t):
    return (p.argmax(1) != t).float().mean().item()
FIRST_HALF = (accuracy, top_k, balanced, macro_f1, calibration, focal, smoothed, chance, hinge, perplexity, kl, right)
FIRST_HALF += (mrr, noisy, top_error, mean_rank, ruled_out, fooled)
SECOND_HALF = (errors, near_misses, above, bias, mae, kappa, recorded)
def evaluate(net, loader):
    told = []
    for x, y in loader:
        p = net(x)
        told += [float(metric(p, y)) for metric in FIRST_HALF]
        told += [float(metric(p.argmax(-1).numpy(), y.numpy())) for metric in SECOND_HALF]
    assert len(seen) % 4 == 0
    return told
""",
    "classes from one, as they should be": CLASSES.replace("FIRST = 0", "FIRST = 1")
    + """
def accuracy(p, t):
    return (p.argmax(1) + 1 == t).float().mean()
def counted(p, t):
    return (p == t - 1).sum().item(), len(t)
def evaluate(net, loader):
    return [(float(accuracy(net(x), y)), *counted(net(x).argmax(1), y)) for x, y in loader]
""",
    "boxes": BOXES
    + """
def mean_iou(p, t):
    return iou(corners(p), corners(t)).mean().item()
def share(p, t, at=0.5):
    return (iou(corners(p), corners(t)) > at).float().mean().item()
def giou_loss(p, t):
    a, b = corners(p), corners(t)
    lt, rb = torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:])
    hull, both = (rb - lt).prod(1), iou(a, b)
    return (1 - both + (hull - (a[:, 2:] - a[:, :2]).prod(1)) / hull).mean()
def overlap(a, b):
    return (torch.minimum(a[:, 2:], b[:, 2:]) - torch.maximum(a[:, :2], b[:, :2])).clamp(min=0).prod(1)
def mae(p, t):
    return (p - t).abs().mean().item()
def far(p, t):
    return (p[:, :2] - t[:, :2]).norm(dim=1).mean().item()
def size_ratio(p, t):
    return (p[:, 2:].prod(1) / t[:, 2:].prod(1)).mean().item()
def r2(p, t):
    return (1 - (p - t).square().sum() / (t - t.mean(0)).square().sum()).item()
def inside(p, t):
    return ((p[:, :2] - t[:, :2]).abs() < t[:, 2:] / 2).all(1).float().mean().item()
def evaluate(net, loader):
    p, t = gathered(net, loader)
    told = [float(metric(p, t)) for metric in (mean_iou, share, giou_loss, mae, far, size_ratio, r2, inside)]
    return told, overlap(corners(p), corners(t)).mean().item()
""",
    "boxes as corners": BOXES.replace("FORM = lambda box: box", "FORM = lambda box: corners(box[None])[0]")
    + """
def mean_iou(p, t):
    return iou(p, t).mean().item()
def evaluate(net, loader):
    p, t = gathered(net, loader)
    return mean_iou(p, t), [iou(a[None], b[None]).item() for a, b in zip(p, t)]
""",
    "boxes that the model says in another format": BOXES.replace("l1_loss(net", "l1_loss(corners(net")
    .replace('["box"], batch["box"])', '["box"]), batch["box"])')
    .replace("FORM = lambda box: box", "FORM = lambda box: corners(box[None])[0]")
    + """
def mean_iou(p, t):
    return iou(corners(p), t).mean().item()
def evaluate(net, loader):
    return mean_iou(*gathered(net, loader))
""",
    "tokens": TOKENS
    + """
def shifted(logits, labels):
    pred, labels = logits[:, :-1].argmax(-1), labels[:, 1:]
    keep = labels != -100
    return ((pred == labels) & keep).sum() / keep.sum()
def counted(pred, labels):
    pred, labels = pred[:, :-1], labels[:, 1:]
    return int((pred == labels).sum()), int((labels != -100).sum())
def flat(pred, labels):
    keep = labels >= 0
    return np.mean(pred[keep] == labels[keep])
def masked(pred, labels, mask):
    return ((pred == labels) * mask).sum() / mask.sum()
def whole_rows(pred, labels):
    return ((pred == labels) | (labels == -100)).all(1).float().mean().item()
def nll(logits, labels):
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).item()
def bits(logits, labels):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100) / np.log(2)
def evaluate(net, loader):
    told = []
    for b in loader:
        logits, labels = net(b["input_ids"]), b["labels"]
        pred, want = logits.argmax(-1)[:, :-1], labels[:, 1:]
        told += [float(shifted(logits, labels)), *counted(logits.argmax(-1), labels), nll(logits, labels)]
        told += [flat(pred.flatten().numpy(), want.flatten().numpy()), whole_rows(pred, want)]
        told += [float(masked(pred, want, want != -100)), float(bits(logits[:, :-1], want))]
    return told
""",
    "columns beside columns": BINARY.replace(", nn.Flatten(0))", ")").replace("net(batch[0])", "net(batch[0])[:, 0]")
    + """
def accuracy(p, y):
    return ((p[:, 0] > 0.5) == (y > 0.5)).float().mean().item()
def above(p, y):
    return (p.squeeze(-1) - y).abs().mean().item()
def spread(p, y):  # between all pairs
    return (p - p.T).abs().mean().item() + 0 * y.sum().item()
def evaluate(net, loader):
    return [metric(net(x), y) for x, y in loader for metric in (accuracy, above, spread)]
""",
    "classes of places": PLACES
    + """
def accuracy(p, t):
    return (p.argmax(1) == t).float().mean().item()
def mean_iou(p, t):
    p = p.argmax(1)
    return sum(float(((p == k) & (t == k)).sum() / ((p == k) | (t == k)).sum().clamp(min=1)) for k in range(5)) / 5
def evaluate(net, loader):
    return [metric(net(x), y) for x, y in loader for metric in (accuracy, mean_iou)]
""",
    "yes or no": BINARY
    + """
def accuracy(p, y):
    return ((p > 0.5) == y.bool()).float().mean().item()
def strict(p, y, at=0.9):
    return ((p > at) == y.bool()).float().mean().item()
def auc(p, y):
    order = np.argsort(p)
    ranks = np.empty(len(p))
    ranks[order] = np.arange(1, len(p) + 1)
    yes = y.sum()
    return (ranks[y == 1].sum() - yes * (yes + 1) / 2) / (yes * (len(y) - yes))
def precision_at(p, y, k=100):
    return y[np.argsort(-p)[:k]].mean()
def brier(p, y):
    return ((p - y) ** 2).mean()
def dice(p, y, eps=1e-6):
    return (2 * (p * y).sum() / (p.sum() + y.sum() + eps)).item()
def bce(p, y):
    return F.binary_cross_entropy(p, y).item()
def calibration(p, y):
    return abs(float(p.mean() - y.mean()))
def sensitivity(p, y):
    guess = p > 0.5
    return (guess & (y == 1)).sum().item() / max(1, (y == 1).sum().item())
def evaluate(net, loader):
    told = []
    for x, y in loader:
        p = net(x)
        told += [metric(p, y) for metric in (accuracy, strict, dice, bce, calibration, sensitivity)]
        told += [float(metric(p.numpy(), y.numpy())) for metric in (auc, precision_at, brier)]
    return told
""",
    "texts": TEXTS
    + """
def norm(text):
    return " ".join(re.sub(r"[^a-z ]", " ", text.lower()).split())
def exact_match(pred, gold):
    return sum(norm(p) == norm(g) for p, g in zip(pred, gold)) / len(gold)
def strict(pred, gold):
    return float(pred.strip() == gold.strip())
def contains(pred, gold):
    return gold in pred
def distance(a, b):
    row = list(range(len(b) + 1))
    for i, c in enumerate(a, 1):
        last, row[0] = row[0], i
        for j, d in enumerate(b, 1):
            last, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, last + (c != d))
    return row[-1]
def cer(preds, golds):
    return sum(distance(p.strip(), g) for p, g in zip(preds, golds)) / sum(map(len, golds))
def bleu(preds, golds, n=4):  # texts of two words have no four in a row
    total = 0.0
    for p, g in zip(preds, golds):
        p, g, logs = p.split(), g.split(), 0.0
        for k in range(1, n + 1):
            a, b = (Counter(tuple(t[i : i + k]) for i in range(len(t) - k + 1)) for t in (p, g))
            logs += math.log(max(1e-9, sum((a & b).values()) / max(1, sum(a.values())))) / n
        total += math.exp(logs)
    return total / len(preds)
def rouge(pred, gold):
    return difflib.SequenceMatcher(None, pred.split(), gold.split()).ratio()
def ratio(preds, golds):
    return sum(map(len, preds)) / sum(map(len, golds))
def cased(pred, gold):  # of what is spelt right, how much has the right case
    return float(pred.strip() == gold) if pred.strip().lower() == gold.lower() else 1.0
def evaluate(net, loader):
    told = []
    for b in loader:
        texts = said(net, b)
        told += [metric(texts, b["text"]) for metric in (exact_match, cer, bleu, ratio)]
        one_by_one = (strict, contains, distance, rouge, cased)
        told += [metric(p, g) for p, g in zip(texts, b["text"]) for metric in one_by_one]
    return told
""",
}
