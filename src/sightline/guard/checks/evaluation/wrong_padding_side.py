"""L1 · Padding at the wrong side makes a batch answer otherwise than its rows alone.

Symptom: batched generation is worse than one row at a time, and the shorter rows are the worst: they begin with a pad
or an odd word, repeat themselves, or stop at once. The longest row of each batch is fine.
Root cause: a decoder goes on from the last position of each row. Padded at the right, that position is padding, and the
new tokens stand behind a gap; and what is read there (`hidden[:, -1]`: a sentence's embedding, a reward) is not the
state of the row's last word. Padded at the left, a model with absolute positions counts the padding along, unless
`position_ids` are given. Or an encoder's mask says the reverse, so that words see nothing but padding.
Fix: `padding_side="left"` for generation and for reading the last position, with the attention mask passed on (and
`position_ids` counted from the mask, where positions are absolute); `padding_side="right"` is fine for training,
and for states that are read at `attention_mask.sum(1) - 1`. A mask that is turned round: `~mask`.
Stays silent when: each row says next what it says alone; rows are padded at the right but read at their last real
token; a batch is trained on at all its tokens (collators may pad as they like); encoders, whose words see words; an id
that nobody names as padding goes on in the middle of training rows, or fills rows of a few lengths alone.
Sources:
- https://github.com/huggingface/transformers/issues/26569 (2023-10-03): what a Llama generates from the same prompts
  padded left and right
- https://github.com/flowersteam/lamorel/issues/53 (2025-10-29): padded right in batched generation, a bug
- https://github.com/huggingface/transformers/issues/34658 (2024-11-08): the library's warning looks at ids, and errs
"""

from __future__ import annotations

from math import isfinite

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import PaddingSeen
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
NOISE = 8  # times one rounding of the largest logit: a few add up through the layers
LEAST = 1e-3  # of the probability: what float32 kernels of another batch shape move is below 1e-5
STATE = 0.02  # of a state's length: a hundred times what float32 kernels move, and less than any other token does
CLEAR = 1.0  # nats in favour of the padding's own prediction: sampled tokens are some evidence, greedy ones strong


def find(padding: PaddingSeen) -> Verdict:
    """Does a row of the padded batch say what it says alone, where the host reads it?"""
    seen = padding
    if seen.turned:
        return _turned(seen)
    if seen.pooled:
        return _pooled(seen)
    if seen.gap <= max(LEAST, NOISE * seen.noise):
        return None
    if seen.side == "right":
        return _generated(seen)
    return Finding(
        severity="warning",
        message=f"left padding changes what {seen.rows} rows say next, by up to {seen.gap:.1%} of the probability",
        fix="pass attention_mask, and position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)",
        seen={"moved": seen.gap, "rounding": seen.noise, "generating": seen.generating},
    )


def _turned(seen: PaddingSeen) -> Finding:
    what = (
        f"words see padding in place of each other, in all {seen.rows} padded rows of a batch: a mask is turned round"
    )
    fix = (
        "key_padding_mask (nn.MultiheadAttention, nn.Transformer) is True for what is to be ignored: ~mask; attn_mask"
        " of scaled_dot_product_attention is True for what may be seen"
    )
    return Finding("error", what, fix, {"padding moves a word's state by": seen.gap, "other words": seen.noise})


def _pooled(seen: PaddingSeen) -> Verdict:
    least = max(STATE, NOISE * seen.noise)
    if seen.gap <= least:
        return None
    if seen.ends > least:  # the mask is not heeded: no place says what the row alone does
        return CannotTell("decoder that heeds its attention mask")
    return Finding(
        severity="warning",
        message=f"{seen.rows} rows are padded at the right, and their state is read at the last place: in the padding",
        fix='padding_side="left" (it is "right"), or hidden[arange(B), attention_mask.sum(1) - 1] for hidden[:, -1]',
        seen={"state moved by": seen.gap, "at the last real token": seen.ends, "rounding": seen.noise},
    )


def _generated(seen: PaddingSeen) -> Verdict:
    if not seen.generating:  # at the last real token: such a model looks ahead, or ignores its mask on purpose
        return CannotTell("decoder that reads from left to right")
    if seen.followed is None or seen.followed <= -CLEAR:  # it went on with what the rows' last real tokens say
        return None
    if seen.followed < CLEAR:
        return CannotTell("tokens that tell from which position the host generates")
    evidence = f"{seen.followed:.1f} nats" if isfinite(seen.followed) else "all tokens"
    return Finding(
        severity="error",
        message=f"{seen.rows} rows are padded at the right, and generation goes on from the padding",
        fix='padding_side="left" for generation (it is "right"), with the attention mask',
        seen={"moved": seen.gap, "rounding": seen.noise, "for the padding's own prediction": evidence},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A layer of attention over two prompts, and a loop that appends the likeliest token."""
    import torch
    from torch import nn

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Embedding(9, 16), nn.Linear(16, 48), nn.Linear(16, 9)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            causal = torch.ones(input_ids.shape[1], input_ids.shape[1], dtype=torch.bool).tril()
            may = causal & attention_mask[:, None, :].bool() | torch.eye(len(causal), dtype=torch.bool)
            q, k, v = self.mix(self.embed(input_ids) * 3).chunk(3, dim=-1)
            return self.head(nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=may)) * 3

    model, ids = Decoder(), torch.tensor([[1, 2, 3, 4], [0, 0, 5, 6], [0, 0, 0, 7], [0, 8, 1, 5]])
    if faulty:
        ids = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0], [8, 1, 5, 0]])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer)
    mask = (ids > 0).long()
    first = model(input_ids=ids[:1], attention_mask=mask[:1])
    nn.functional.cross_entropy(first[0, :-1], ids[0, 1:]).backward()
    optimizer.step()
    with torch.no_grad():
        for _ in range(3):
            following = model(input_ids=ids, attention_mask=mask)[:, -1].argmax(-1, keepdim=True)
            ids, mask = torch.cat([ids, following], dim=1), nn.functional.pad(mask, (0, 1), value=1)
