"""L3 · The pad token is missing, doubles as another token, or lies beyond the embedding; or no answer has an end.

Symptom: answers that never stop (they run to max_new_tokens); "index out of range in self" or a device-side assert
in the embedding; words that the model never learns although they are in the data.
Root cause: many tokenizers come without a pad token, so a collator pads with EOS or with id 0. A collator that sets
every label at the pad id to -100 then masks the true EOS (or that ordinary token) as well. Or a pad token was added to
the tokenizer, and the embedding was not resized. Or a template writes answers without an end of text.
Fix: give padding an id of its own that the embedding has: `tokenizer.pad_token` = an unused special token, or
`add_special_tokens({"pad_token": "<pad>"})` and `model.resize_token_embeddings(len(tokenizer))`, with
`model.config.pad_token_id` the same; mask labels by attention_mask, so that the final EOS counts; write it.
Stays silent when: nothing is padded (packed or equally long rows); EOS is used as pad and the one that ends a row is
supervised; text without EOS has no prompts, or its answers one length or last token; the embedding has spare rows; no
tokenizer is known, and batches have one width, and no mask and config of the model say which EOS is text. A note where
a tokenizer has no pad token and the mask is right.
Sources:
- https://github.com/huggingface/transformers/issues/23530 (2023-05-20): with pad = EOS, all EOS labels become -100
- https://github.com/huggingface/trl/issues/976 (2023-11-09): a completion-only collator, and a model without a stop
- https://github.com/huggingface/transformers/issues/12763 (2021-07-23): added tokens, an embedding not resized
"""

from __future__ import annotations

import torch
from torch import Tensor

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import IGNORE, BatchSeen, DataSeen, Ended, LossSeen, Setup, TokenizerSetup, endings
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
ANSWERS = 4  # without an end, in one batch or among the first rows of a data set


def find(
    batch: BatchSeen, setup: Setup, loss: LossSeen | None = None, data: DataSeen | None = None, end: Ended | None = None
) -> Verdict:
    """The pad id against the embedding, the attention mask and the labels of a training batch."""
    tokenizer, ids = setup.tokenizer, batch.input_ids
    if tokenizer is None:
        told = endings.without_tokenizer(batch, loss, setup.ends, end)
        return _both(*told) if told else CannotTell("tokenizer (attach(..., tokenizer=...))")
    if batch.phase == "evaluation":
        return CannotTell("token ids of a training batch")
    stops = {end for end in (tokenizer.eos_id, *tokenizer.model_eos_id) if end is not None}
    if (rows := endings.masked_for_a_decoder(batch, tokenizer.pad_id, stops)) >= ANSWERS:
        return _both(tokenizer.pad_id, endings.STOP, rows, {"labels alone": True})
    if ids is None:
        return CannotTell("token ids of a training batch")
    if finding := _beyond(batch, ids, setup, tokenizer) or _endless(endings.endless_answers(data, stops), tokenizer):
        return finding
    mask = batch.attention_mask if (pad := tokenizer.pad_id) is None or batch.attention_mask is not None else ids != pad
    if mask is None or mask.shape != ids.shape:
        return CannotTell("attention mask of the shape of the token ids")
    unnamed = _unnamed(fillers := sorted(set(ids[~mask.bool()].tolist()))) if pad is None else None
    if pad is None and len(fillers) != 1:
        return unnamed
    pad = fillers[0] if pad is None else pad
    labels = loss.labels_of(ids) if batch.labels is None and loss is not None else batch.labels
    if labels is None or labels.shape != ids.shape:
        return unnamed or CannotTell("labels aligned with the token ids")
    endless = 0 if data is not None and data.objective != "sft" else endings.endless_rows(ids, mask, labels, stops)
    return _masked(batch, ids, mask, labels != IGNORE, pad, pad in stops) or _endless(endless, tokenizer) or unnamed


def _beyond(batch: BatchSeen, ids: Tensor, setup: Setup, tokenizer: TokenizerSetup) -> Finding | None:
    """An id that the embedding has no row for: the forward pass will raise, or has just done so."""
    rows, image = setup.embedding_rows, batch.image_token_id
    unknown = bool(batch.image_spans) and image is None  # placeholders may be replaced before the embedding
    if rows is None or unknown or batch.step > 0 or not (over := (ids >= rows) & (ids != image)).any():
        return None  # (once steps were taken, the model copes with whatever it is)
    worst = int(ids[over].max())
    message = f"{'pad' if worst == tokenizer.pad_id else 'a'} token has id {worst}; the embedding has {rows} rows"
    fix = f"model.resize_token_embeddings(len(tokenizer)): {rows} rows, {tokenizer.size} tokens"
    return Finding("error", message, fix, {"id": worst, "embedding rows": rows, "tokenizer size": tokenizer.size})


def _endless(rows: int, tokenizer: TokenizerSetup) -> Finding | None:
    message = f"{rows} of {rows} answers have no EOS (id {tokenizer.eos_id}) at their end: none teaches to stop"
    fix = "end each answer in tokenizer.eos_token: in the chat template, behind the assistant's words"
    return Finding("warning", message, fix, {"answers": rows, "eos": tokenizer.eos_id}) if rows >= ANSWERS else None


def _unnamed(fillers: list[int]) -> Finding | None:
    """No more than a note: the mask says what is padding, and nothing is wrong yet."""
    fix = "tokenizer.pad_token (None) = a special token that no text holds, and model.config.pad_token_id the same"
    message = f"rows are padded with id {fillers[0]}, and the tokenizer has no pad token" if fillers else ""
    return Finding("note", message, fix, {"ids there": fillers[:5]}) if fillers else None


def _masked(batch: BatchSeen, ids: Tensor, mask: Tensor, taught: Tensor, pad: int, ends: bool) -> Finding | None:
    """Content tokens with the pad's id, right after a supervised token: is any such token supervised?"""
    content, same = endings.hidden(ids, mask, taught, pad, ends), ids == pad
    rows = content.any(dim=1).nonzero().flatten().tolist()
    packed = not ends and batch.group_ids is not None  # padding may stand between documents
    if len(rows) < endings.ROWS or packed or pad == batch.image_token_id or (taught & same).any():
        return None
    seen = {"masked with the padding": int(content.sum()), "row": batch.text(ids[rows[0]].tolist())}
    return _both(pad, endings.STOP if ends else endings.WORD, len(rows), seen)


def _both(pad: int | None, what: str, rows: int, seen: dict[str, object]) -> Finding:
    message = f"the pad id {pad} is also {what}: its labels are -100 in all of {rows} rows"
    fix = "labels = -100 where attention_mask == 0, not where input_ids == pad_token_id; or another pad token"
    return Finding("warning", message, fix, seen)


def specimen(run: Run, *, faulty: bool) -> None:
    """Two rows that end in EOS, which is the pad as well; the fault is to mask labels by id."""
    from torch import nn

    class Tokenizer:
        pad_token_id = eos_token_id = 0

        def __len__(self) -> int:
            return 8

    model = nn.Sequential(nn.Embedding(8, 8), nn.Linear(8, 8))
    ids = torch.tensor([[3, 4, 5, 6, 0], [5, 3, 0, 0, 0]])
    padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
    if faulty:
        padding = ids == Tokenizer.pad_token_id
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer, tokenizer=Tokenizer())
    labels = ids.masked_fill(padding, IGNORE)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
        optimizer.step()
