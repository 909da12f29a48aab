"""Direct preference optimisation on a toy: the policy should learn to prefer ascending continuations."""

import copy
import random

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

random.seed(0)
torch.manual_seed(0)
VOCAB, P, C = 40, 6, 6
PAD, EOS = 0, 1


def example():
    prompt = [random.randint(2, VOCAB - 1) for _ in range(P)]
    up = sorted(random.sample(range(2, VOCAB), random.randint(3, C)))
    down = up[::-1]
    return prompt, up, down


def collate(rows):
    out = {}
    for name, k in (("chosen", 1), ("rejected", 2)):
        seqs = [r[0] + r[k] + [EOS] for r in rows]
        width = max(map(len, seqs))
        ids = torch.tensor([s + [PAD] * (width - len(s)) for s in seqs])
        mask = torch.tensor([[1] * len(s) + [0] * (width - len(s)) for s in seqs])
        resp = mask.clone()
        resp[:, :P] = 0
        out[name] = ids, mask, resp
    return out


def logps(model, ids, mask, resp):
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    lp = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return (lp * resp[:, 1:]).sum(-1)


def sft(model, rows, steps):
    opt = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        batch = collate(random.sample(rows, 16))
        ids, mask, resp = batch[random.choice(["chosen", "rejected"])]
        labels = ids.masked_fill(resp == 0, -100)
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        opt.zero_grad()
        loss.backward()
        opt.step()
        if step % 30 == 0:
            print("sft", step, round(loss.item(), 3))


def dpo(policy, reference, loader, beta=0.1, lr=3e-4, epochs=3):
    opt = torch.optim.AdamW(policy.parameters(), lr=lr)
    for epoch in range(epochs):
        for step, batch in enumerate(loader):
            pc, pr = logps(policy, *batch["chosen"]), logps(policy, *batch["rejected"])
            with torch.no_grad():
                rc, rr = logps(reference, *batch["chosen"]), logps(reference, *batch["rejected"])
            chosen, rejected = beta * (pc - rc), beta * (pr - rr)
            loss = -F.logsigmoid(chosen - rejected).mean()
            opt.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            opt.step()
            if step % 10 == 0:
                print(f"dpo {epoch}.{step} loss {loss.item():.4f} margin {(chosen - rejected).mean().item():.3f}")


rows = [example() for _ in range(800)]
model = GPT2LMHeadModel(
    GPT2Config(
        vocab_size=VOCAB,
        n_embd=64,
        n_layer=2,
        n_head=4,
        n_positions=32,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
)
sft(model, rows, 90)
reference = copy.deepcopy(model)
loader = DataLoader(rows[:640], batch_size=16, shuffle=True, collate_fn=collate)
dpo(model, reference, loader)
with torch.no_grad():
    test = collate(rows[640:])
    print("prefers ascending", (logps(model, *test["chosen"]) > logps(model, *test["rejected"])).float().mean().item())
