"""Character LSTM with truncated backpropagation: the hidden state is carried on and detached."""

from pathlib import Path

import torch
import torch.nn as nn

text = Path("input.txt").read_text()[:6000]
chars = sorted(set(text))
stoi = {c: i for i, c in enumerate(chars)}
data = torch.tensor([stoi[c] for c in text])


class CharRNN(nn.Module):
    def __init__(self, vocab, embed=24, hidden=48):
        super().__init__()
        self.embed = nn.Embedding(vocab, embed)
        self.rnn = nn.LSTM(embed, hidden, num_layers=2, dropout=0.1, batch_first=True)
        self.out = nn.Linear(hidden, vocab)

    def forward(self, ids, state=None):
        h, state = self.rnn(self.embed(ids), state)
        return self.out(h), state


torch.manual_seed(1337)
batch, bptt = 10, 24
length = (len(data) - 1) // batch
stream = data[: batch * length].view(batch, length)
answer = data[1 : batch * length + 1].view(batch, length)
model = CharRNN(len(chars))
optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)

for epoch in range(3):
    model.train()
    state, total, count = None, 0.0, 0
    for i in range(0, length - bptt, bptt):
        x, y = stream[:, i : i + bptt], answer[:, i : i + bptt]
        if state is not None:
            state = tuple(s.detach() for s in state)
        logits, state = model(x, state)
        loss = nn.functional.cross_entropy(logits.reshape(-1, len(chars)), y.reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        total, count = total + loss.item(), count + 1
    print(f"epoch {epoch} loss {total / count:.5f}")

model.eval()
with torch.no_grad():
    ids, state, out = torch.tensor([[stoi["T"]]]), None, "T"
    for _ in range(40):
        logits, state = model(ids, state)
        ids = torch.multinomial(logits[:, -1].softmax(-1), 1)
        out += chars[ids.item()]
print(repr(out))
