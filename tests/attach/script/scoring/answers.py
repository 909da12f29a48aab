"""Small scripts whose nets are asked by methods of their own, and metrics of answers for which several texts may do."""

from __future__ import annotations

from tests.attach.script.scoring.scripts import TEXTS

ANSWERS = (
    TEXTS.replace(
        "net = lambda: nn.Linear(6, 6)",
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 6)
    def forward(self, x):
        return self.lin(x)
    @torch.no_grad()
    def answer(self, x):
        return self.best(x)
    def best(self, x):
        return self.lin(x).argmax(1)
net = Net
""",
    )
    + """
def collate(made):
    said = [["no", m["text"], m["text"].lower(), m["text"], "maybe"] for m in made]
    x, k = torch.stack([m["x"] for m in made]), torch.tensor([m["k"] for m in made])
    return {"x": x, "k": k, "text": [m["text"] for m in made], "said": said}
def written(net, batch):
    return [WORDS[k].lower() for k in net.answer(batch["x"])]
NUMBERS, ARTICLES = {"two": "2", "birds": "bird"}, {"a", "the"}
def digits(text):
    return " ".join(NUMBERS.get(word, word) for word in re.findall("[a-z0-9]+", text.lower()))
def once(text):
    return text.lower().strip(" .")
def bare(text):
    return " ".join(w for w in text.lower().split() if w not in ARTICLES)
"""
)

GATHERED = """
def exact(pred, gold):
    return sum(bare(p) == CLEAN(g) for p, g in zip(pred, gold)) / len(gold)
def evaluate(net, loader):
    pred, gold = [], []
    for b in loader:
        pred += written(net, b)
        gold += b["text"]
    return exact(pred, gold)
"""

COUNTED = """
def evaluate(net, loader):
    hits, count = 0, 0
    for b in loader:
        hits += int((net.answer(b["x"]) == b["k"] + MORE).sum())
        count += len(b["k"])
    return {"accuracy": hits / count}
"""

VOTED = """
def accuracy(pred, votes):
    return sum(min(1.0, sum(digits(p) == CLEAN(v) for v in some) / 2) for p, some in zip(pred, votes)) / len(votes)
def evaluate(net, loader):
    return [accuracy(written(net, b), b["said"]) for b in loader]
"""

BY_KIND = """
def accuracy(pred, votes):
    return sum(min(1.0, sum(digits(p) == CLEAN(v) for v in some) / 2) for p, some in zip(pred, votes)) / len(votes)
def evaluate(net, loader):
    pred, votes = [], []
    for b in loader:
        pred += written(net, b)
        votes += b["said"]
    table = [accuracy(pred, votes)]
    for kind in ("Red", "blue", "two"):
        those = [i for i, some in enumerate(votes) if some[1].startswith(kind)]
        table.append(accuracy([pred[i] for i in those], [votes[i] for i in those]))
    return table
"""

ALONE = """
def f1(pred, gold):
    p, g = digits(pred).split(), CLEAN(gold).split()
    same = sum((Counter(p) & Counter(g)).values())
    return 2 * same / (len(p) + len(g))
def best(pred, votes):
    return max(f1(pred, v) for v in votes)
def evaluate(net, loader):
    told = [best(p, some) for b in loader for p, some in zip(written(net, b), b["said"])]
    return sum(told) / len(told)
"""

JUDGED = """
import functools
KEEP = str.lower
@functools.lru_cache
def cached(text):
    return digits(text)
class Judge:
    def __init__(self):
        self.least = 2
    def score(self, pred, votes):
        return min(1.0, [CLEAN(v) for v in votes].count(cached(pred)) / self.least)
def evaluate(net, loader):
    judge = Judge()
    told = [judge.score(p, some) for b in loader for p, some in zip(written(net, b), b["said"])]
    return sum(told) / len(told)
"""

ENDED = """
def unmarked(text):
    return re.sub("<[a-z]+>", "", text).lower()
def exact(pred, gold):
    return sum(CLEAN(p) == g.lower() for p, g in zip(pred, gold)) / len(gold)
def evaluate(net, loader):
    pred, gold = [], []
    for b in loader:
        pred += [text + "<eos>" + "<pad>" * (len(text) % 3) for text in written(net, b)]
        gold += b["text"]
    return exact(pred, gold)
"""

WRONG_AND_RIGHT = {  # code, what is wrong in it, what is right, and what is said of it
    "answers that no forward pass gives": (
        GATHERED,
        {"CLEAN": "str.lower"},
        {"CLEAN": "bare"},
        "not 1, which it gives for targets in lower case without punctuation and articles",
    ),
    "answers with the tokens that end them": (
        ENDED,
        {"CLEAN": "str.lower"},
        {"CLEAN": "unmarked"},
        "not 1, which it gives for predictions without the special tokens at their end",
    ),
    "classes that no forward pass gives": (COUNTED, {"MORE": "1"}, {"MORE": "0"}, "labels less one"),
    "answers of which each is right": (
        VOTED,
        {"CLEAN": "once"},
        {"CLEAN": "digits"},
        "not 1, which it gives for targets as digits makes them",
    ),
    "answers of which each is right, by their kinds": (
        BY_KIND,
        {"CLEAN": "once"},
        {"CLEAN": "digits"},
        "not 1, which it gives for targets as digits makes them",
    ),
    "answers of which each is right, one by one": (
        ALONE,
        {"CLEAN": "once"},
        {"CLEAN": "digits"},
        "not 1, which it gives for targets as digits makes them",
    ),
    "answers before a judge": (
        JUDGED,
        {"CLEAN": "KEEP"},
        {"CLEAN": "cached"},
        "not 1, which it gives for targets as cached makes them",
    ),
}

SOUND = """
def ready(pred, votes):  # the caller has cleaned them
    return sum(p in some for p, some in zip(pred, votes)) / len(votes)
def similar(pred, votes, least=0.5):
    best = max(difflib.SequenceMatcher(None, pred.lower(), v.lower()).ratio() for v in votes)
    return best if best >= least else 0.0
def agreement(pred, votes):  # each one left out in turn
    each = [min(1.0, (votes.count(pred) - (v == pred)) / 3) for v in votes]
    return sum(each) / len(each)
def mentioned(pred, votes):
    return sum(v in pred for v in votes) / len(votes)
def place(pred, votes):
    return votes.index(pred) if pred in votes else -1
def letter(pred, gold):
    return float(pred[:1] == gold.lower()[:1])
def evaluate(net, loader):
    told = []
    for b in loader:
        pred = written(net, b)
        told.append(ready([bare(p) for p in pred], [[bare(v) for v in some] for some in b["said"]]))
        metrics = (similar, agreement, mentioned, place)
        told += [metric(p, some) for metric in metrics for p, some in zip(pred, b["said"])]
        told += [letter(p, g) for p, g in zip(pred, b["text"])]
    return told
"""


def written(code: str, words: dict[str, str]) -> str:
    """The script with these words in their places."""
    for place, word in words.items():
        code = code.replace(place, word)
    return ANSWERS + code
