"""L4 · Documents that are packed into one row see each other.

Symptom: a healthy loss, even a lower one where neighbours are alike; answers that mention another row's facts; scores
that change with how rows happen to be packed, and fall when rows come one at a time.
Root cause: rows are concatenated under one causal mask. Positions that restart at 0 do not separate documents by
themselves: only a block mask does, or an attention kernel that is told where documents end. transformers reads the ends
from `position_ids` only where it gets no 2-D mask, not even one of ones, and no cache (`use_cache=True` is a default).
A flattening collator that leaves positions out (`return_position_ids=False`) tells the loss alone where documents end.
Fix: restart `position_ids` at each document and give attention the ends: a (B, 1, T, T) block mask, `document_ids` for
flex attention, or the cumulative lengths (`cu_seq_lens_q`, `cu_seq_lens_k`) for flash attention; in transformers
without these, `attention_mask=None` and `use_cache=False`. Else do not pack.
Stays silent when: changing a token of one document moves no logit of another beyond rounding, by whatever attention
implementation; documents share a prefix on purpose (questions about one image); rows are not packed.
Sources:
- https://github.com/huggingface/nanoVLM/pull/204 (2026-04-07): restarted positions alone leave the leak as it was
- https://github.com/ServiceNow/Fast-LLM/pull/177 (2025-03-07): two switches, for positions and for attention
- https://github.com/hiyouga/LlamaFactory/pull/4224 (2024-06-11): packing with separation for several attentions
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import LeakSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
NOISE = 4  # times one rounding of the largest logit: a few roundings add up through the layers
LEAK = 1e-4  # of the change in the changed document: what float32 kernels leave behind is below 1e-5


def find(leak: LeakSeen) -> Verdict:
    """A token of one document was changed: did the others' logits move?"""
    if leak.outside > max(NOISE * leak.noise, LEAK * leak.inside):
        return Finding(
            severity="error",
            message=f"a change in one of {leak.documents} packed documents moved the logits of another",
            fix="give attention a block mask or the documents' lengths, and restart position_ids (transformers:"
            " attention_mask=None and use_cache=False), or do not pack",
            seen={"moved in it": leak.inside, "moved in others": leak.outside, "rounding": leak.noise},
        )
    if leak.inside <= leak.noise:
        return CannotTell("packed document whose own logits a changed token moves")
    if leak.restarts is not None and leak.restarts < leak.documents:
        return Finding(
            severity="note",
            message=f"{leak.documents} packed documents do not see each other, but only {leak.restarts} start at 0",
            fix="restart position_ids at each document, as they are where rows come one at a time",
            seen={"documents": leak.documents, "positions that are 0": leak.restarts},
        )
    return None


def specimen(run: Run, *, faulty: bool) -> None:
    """One attention layer, one row of two documents."""
    import torch
    from torch import nn

    class Attention(nn.Module):
        separate = True

        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(9, 8), nn.Linear(8, 24), nn.Linear(8, 9)

        def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor) -> torch.Tensor:
            width, document = input_ids.shape[1], (position_ids == 0).cumsum(-1)
            may = torch.ones(width, width, dtype=torch.bool).tril()
            if self.separate:
                may = may & (document[:, :, None] == document[:, None, :])
            q, k, v = self.mix(self.embed(input_ids)).chunk(3, dim=-1)
            return self.head(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=may))

    model = Attention()
    if faulty:
        model.separate = False
    ids, positions = torch.tensor([[1, 2, 3, 4, 5, 6, 7]]), torch.tensor([[0, 1, 2, 0, 1, 2, 3]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        logits = model(input_ids=ids, position_ids=positions)
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
