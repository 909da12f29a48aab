"""Seq2seq with attention: human dates to ISO. Two optimizers, teacher forcing, after the well-known tutorial."""

import datetime
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

SOS, EOS = 1, 2
random.seed(0)
torch.manual_seed(0)


class Lang:
    def __init__(self, texts):
        self.i2c = ["<pad>", "<sos>", "<eos>"] + sorted(set("".join(texts)))
        self.c2i = {c: i for i, c in enumerate(self.i2c)}

    def __len__(self):
        return len(self.i2c)

    def encode(self, s, length):
        ids = [self.c2i[c] for c in s] + [EOS]
        return ids + [0] * (length - len(ids))


pairs = []
for _ in range(2500):
    d = datetime.date(1950, 1, 1) + datetime.timedelta(days=random.randrange(30000))
    pairs.append((d.strftime(random.choice(["%d %b %Y", "%b %d, %Y", "%d/%m/%Y"])), d.isoformat()))
src_lang, tgt_lang = Lang([p[0] for p in pairs]), Lang([p[1] for p in pairs])
src_len = max(len(p[0]) for p in pairs) + 1
X = torch.tensor([src_lang.encode(p[0], src_len) for p in pairs])
Y = torch.tensor([tgt_lang.encode(p[1], 11) for p in pairs])
train_loader = DataLoader(TensorDataset(X[:2200], Y[:2200]), batch_size=50, shuffle=True)
test_loader = DataLoader(TensorDataset(X[2200:], Y[2200:]), batch_size=100)


class EncoderRNN(nn.Module):
    def __init__(self, n, hidden):
        super().__init__()
        self.embedding = nn.Embedding(n, hidden, padding_idx=0)
        self.gru = nn.GRU(hidden, hidden, batch_first=True)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x):
        return self.gru(self.dropout(self.embedding(x)))


class Attention(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.Wa, self.Ua, self.Va = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, query, keys, mask):
        scores = self.Va(torch.tanh(self.Wa(query) + self.Ua(keys))).squeeze(2)
        weights = F.softmax(scores.masked_fill(~mask, -1e9), -1).unsqueeze(1)
        return torch.bmm(weights, keys)


class AttnDecoderRNN(nn.Module):
    def __init__(self, hidden, n):
        super().__init__()
        self.embedding = nn.Embedding(n, hidden)
        self.attention = Attention(hidden)
        self.gru = nn.GRU(2 * hidden, hidden, batch_first=True)
        self.out = nn.Linear(hidden, n)
        self.dropout = nn.Dropout(0.1)

    def forward(self, enc_out, enc_hidden, mask, length, target=None):
        token = torch.full((enc_out.size(0), 1), SOS, dtype=torch.long)
        hidden, outs = enc_hidden, []
        for i in range(length):
            emb = self.dropout(self.embedding(token))
            context = self.attention(hidden.permute(1, 0, 2), enc_out, mask)
            out, hidden = self.gru(torch.cat([emb, context], 2), hidden)
            logits = self.out(out)
            outs.append(logits)
            token = target[:, i : i + 1] if target is not None else logits.argmax(-1).detach()
        return torch.cat(outs, 1)


def train_epoch(loader, encoder, decoder, encoder_optimizer, decoder_optimizer, criterion):
    total = 0
    encoder.train()
    decoder.train()
    for x, y in loader:
        encoder_optimizer.zero_grad()
        decoder_optimizer.zero_grad()
        enc_out, enc_hidden = encoder(x)
        logits = decoder(enc_out, enc_hidden, x != 0, y.size(1), y)
        loss = criterion(logits.view(-1, logits.size(-1)), y.view(-1))
        loss.backward()
        encoder_optimizer.step()
        decoder_optimizer.step()
        total += loss.item()
    return total / len(loader)


@torch.no_grad()
def accuracy(loader, encoder, decoder):
    encoder.eval()
    decoder.eval()
    good = n = 0
    for x, y in loader:
        out, hidden = encoder(x)
        pred = decoder(out, hidden, x != 0, y.size(1)).argmax(-1)
        good += (pred == y).all(1).sum().item()
        n += len(y)
    return good / n


encoder, decoder = EncoderRNN(len(src_lang), 64), AttnDecoderRNN(64, len(tgt_lang))
enc_opt = torch.optim.Adam(encoder.parameters(), lr=0.004)
dec_opt = torch.optim.Adam(decoder.parameters(), lr=0.004)
criterion = nn.CrossEntropyLoss()
start = time.time()
for epoch in range(1, 6):
    loss = train_epoch(train_loader, encoder, decoder, enc_opt, dec_opt, criterion)
    print(
        f"{time.time() - start:5.1f}s epoch {epoch} loss {loss:.4f} exact {accuracy(test_loader, encoder, decoder):.2f}"
    )
