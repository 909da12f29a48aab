"""Sentiment of made-up reviews with a GRU over packed sequences."""

import random

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader

GOOD, BAD = "great lovely superb fine warm".split(), "dull awful weak cold boring".split()
PLAIN = "the film was a story of two people and their long way home".split()


def review():
    label = random.randint(0, 1)
    words = random.choices(PLAIN, k=random.randint(4, 12)) + random.choices((BAD, GOOD)[label], k=2)
    random.shuffle(words)
    return words, label


class Classifier(nn.Module):
    def __init__(self, vocab):
        super().__init__()
        self.embedding = nn.Embedding(vocab, 16, padding_idx=0)
        self.gru = nn.GRU(16, 24, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.2)
        self.fc = nn.Linear(48, 2)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        _, h = self.gru(packed)
        return self.fc(self.drop(torch.cat([h[0], h[1]], dim=1)))


random.seed(0)
torch.manual_seed(0)
stoi = {w: i + 1 for i, w in enumerate(sorted(set(GOOD + BAD + PLAIN)))}
data = [review() for _ in range(400)]


def collate(rows):
    ids = [torch.tensor([stoi[w] for w in words]) for words, _ in rows]
    return pad_sequence(ids, batch_first=True), torch.tensor([len(i) for i in ids]), torch.tensor([y for _, y in rows])


train = DataLoader(data[:320], batch_size=16, shuffle=True, collate_fn=collate)
valid = DataLoader(data[320:], batch_size=40, collate_fn=collate)
net = Classifier(len(stoi) + 1)
opt = torch.optim.Adam(net.parameters(), lr=5e-3)
for epoch in range(4):
    net.train()
    for ids, lengths, y in train:
        opt.zero_grad()
        loss = nn.functional.cross_entropy(net(ids, lengths), y)
        loss.backward()
        opt.step()
    net.eval()
    with torch.no_grad():
        right = sum((net(ids, n).argmax(1) == y).sum().item() for ids, n, y in valid)
    print(epoch, loss.item(), right / 80)
