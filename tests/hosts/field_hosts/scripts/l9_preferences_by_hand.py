"""Preference tuning written by hand, on accelerate."""

import sys
import copy
import random

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import GPT2Config, GPT2LMHeadModel

FAULTY = "faulty" in sys.argv

random.seed(0)
torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
V = 32
config = GPT2Config(
    vocab_size=V, n_positions=32, n_embd=32, n_layer=2, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
)
policy = GPT2LMHeadModel(config)


def make():
    prompt = [random.randint(1, 20) for _ in range(4)]
    chosen = [random.randint(21, 25) for _ in range(4)]
    rejected = [random.randint(26, 31) for _ in range(4)]
    return torch.tensor(prompt + chosen), torch.tensor(prompt + rejected)


pairs = [make() for _ in range(128)]
loader = DataLoader(pairs, batch_size=8, shuffle=True)

# a few steps of SFT on the chosen answers first
opt = torch.optim.AdamW(policy.parameters(), lr=1e-3)
for c, _ in loader:
    loss = policy(input_ids=c, labels=c).loss
    loss.backward()
    opt.step()
    opt.zero_grad()

if FAULTY:
    reference = policy.eval()
else:
    reference = copy.deepcopy(policy).eval()
    for p in reference.parameters():
        p.requires_grad_(False)
optimizer = torch.optim.AdamW(policy.parameters(), lr=2e-4)
policy, optimizer, loader = accelerator.prepare(policy, optimizer, loader)


def answer_logp(model, ids):
    logits = model(input_ids=ids).logits[:, :-1]
    logp = torch.gather(logits.log_softmax(-1), 2, ids[:, 1:, None]).squeeze(-1)
    return logp[:, 3:].sum(-1)


beta = 0.1
for epoch in range(3):
    for chosen, rejected in loader:
        pc, pr = answer_logp(policy, chosen), answer_logp(policy, rejected)
        with torch.no_grad():
            rc, rr = answer_logp(reference, chosen), answer_logp(reference, rejected)
        margin = beta * ((pc - rc) - (pr - rr))
        loss = -F.logsigmoid(margin).mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    print(epoch, loss.item(), margin.mean().item())
