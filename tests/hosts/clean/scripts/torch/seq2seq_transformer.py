"""Learn to reverse strings of digits; rows are padded."""

import torch
import torch.nn as nn

PAD, BOS, EOS = 10, 11, 12


class Reverser(nn.Module):
    def __init__(self, dim=32):
        super().__init__()
        self.embed = nn.Embedding(13, dim, padding_idx=PAD)
        self.position = nn.Embedding(16, dim)
        self.core = nn.Transformer(dim, 4, 1, 1, 64, dropout=0.0, batch_first=True)
        self.out = nn.Linear(dim, 13)

    def add_position(self, ids):
        return self.embed(ids) + self.position(torch.arange(ids.size(1)))

    def forward(self, src, tgt):
        causal = torch.triu(torch.ones(tgt.size(1), tgt.size(1), dtype=torch.bool), 1)
        h = self.core(
            self.add_position(src),
            self.add_position(tgt),
            tgt_mask=causal,
            src_key_padding_mask=src == PAD,
            tgt_key_padding_mask=tgt == PAD,
            memory_key_padding_mask=src == PAD,
        )
        return self.out(h)


def batch(n=32):
    src = torch.full((n, 8), PAD)
    tgt = torch.full((n, 10), PAD)
    for i in range(n):
        length = int(torch.randint(3, 9, ()))
        digits = torch.randint(0, 10, (length,))
        src[i, :length] = digits
        tgt[i, : length + 2] = torch.cat([torch.tensor([BOS]), digits.flip(0), torch.tensor([EOS])])
    return src, tgt


torch.manual_seed(0)
model = Reverser()
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, betas=(0.9, 0.98), eps=1e-9)
criterion = nn.CrossEntropyLoss(ignore_index=PAD)
model.train()
for step in range(70):
    src, tgt = batch()
    logits = model(src, tgt[:, :-1])
    loss = criterion(logits.reshape(-1, 13), tgt[:, 1:].reshape(-1))
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step % 14 == 13:
        print(step + 1, loss.item())
