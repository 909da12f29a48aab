"""Translate number words between two made-up languages: GRU encoder-decoder with additive attention."""

import random
import torch
import torch.nn as nn
from torch.nn.utils.rnn import pad_sequence

random.seed(0)
torch.manual_seed(0)
SRC = ["<pad>", "<eos>"] + [f"a{i}" for i in range(20)]
TGT = ["<pad>", "<bos>", "<eos>"] + [f"b{i}" for i in range(20)]


def pair():
    n = random.randint(3, 9)
    s = [random.randrange(20) for _ in range(n)]
    return torch.tensor([i + 2 for i in s] + [1]), torch.tensor([1] + [(i * 7) % 20 + 3 for i in reversed(s)] + [2])


class Encoder(nn.Module):
    def __init__(self, d=48):
        super().__init__()
        self.emb, self.gru = nn.Embedding(len(SRC), d, padding_idx=0), nn.GRU(d, d, batch_first=True)

    def forward(self, x):
        return self.gru(self.emb(x))


class Decoder(nn.Module):
    def __init__(self, d=48):
        super().__init__()
        self.emb, self.gru = nn.Embedding(len(TGT), d, padding_idx=0), nn.GRU(d, d, batch_first=True)
        self.wq, self.wk, self.v = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, 1)
        self.fc = nn.Linear(2 * d, len(TGT))

    def forward(self, y, memory, h, mask):
        q, _ = self.gru(self.emb(y), h)
        e = self.v(torch.tanh(self.wq(q)[:, :, None] + self.wk(memory)[:, None])).squeeze(-1)
        a = e.masked_fill(~mask[:, None], -1e9).softmax(-1)
        return self.fc(torch.cat([q, a @ memory], -1))


class Seq2Seq(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Encoder(), Decoder()

    def forward(self, src, tgt):
        memory, h = self.encoder(src)
        return self.decoder(tgt, memory, h, src != 0)


model = Seq2Seq()
criterion = nn.CrossEntropyLoss(ignore_index=0)
optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
for it in range(1, 161):
    src, tgt = (pad_sequence(x, batch_first=True) for x in zip(*[pair() for _ in range(24)]))
    out = model(src, tgt[:, :-1])
    loss = criterion(out.reshape(-1, len(TGT)), tgt[:, 1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1)
    optimizer.step()
    if it % 40 == 0:
        print(it, round(loss.item(), 4))
