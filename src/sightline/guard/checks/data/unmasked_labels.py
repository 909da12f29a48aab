"""L2 · Labels supervise what they should not (prompt, padding, the wrong token), or nothing at all.

Symptom: a fine loss, and a model that goes on with the user's turn, repeats the question or never stops; a loss near
zero from the start (each token predicts itself); 0.0 logged while the forward pass gives NaN (nothing supervised).
Root cause: labels are a copy of input_ids without -100 on the prompt and the padding; the mask is off by one, or counts
the padding ahead of a prompt, or not all of its images; labels are shifted twice, or not -100 beside words that are
hidden; or truncation cut all of them off.
Fix: labels = input_ids with -100 where attention_mask is 0 and outside the assistant's turns (a completion-only
collator, or the chat template's assistant mask); shift once, in the loss or in the collator; raise max_length.
Stays silent when: only assistant tokens are supervised (and a tag of the user's, where answers end); or everything is,
in text without turns of a user (pretraining, captions; a note where TRL does so by its default, but not where it is
told to teach prompts that are columns of their own); a model made from nothing is taught whole conversations (told at
the end), and what goes on with its words answers alone; the policy writes its rows; labels fit a loss without shift; a
loss leads away from its targets; all is taught of a text, a puzzle or a diffusion in which one mark alone hides words
(BERT exchanges some as well).
Sources:
- https://github.com/NielsRogge/Transformers-Tutorials/issues/456 (2024-07-27): collators that mask only the padding
- https://github.com/huggingface/transformers/pull/44642 (2026-03-12): labels shifted before a model that shifts them
- https://github.com/huggingface/trl/pull/6671 (2026-08-06): 0.0 logged when all labels are masked (TRL 6668)
"""

from __future__ import annotations

from torch import Tensor

from sightline.guard.check import CannotTell, Finding, Severity, Verdict, Withdrawn
from sightline.guard.evidence import IGNORE, BatchSeen, DataSeen, FromNothingSeen, LossSeen, PromptsSeen, TaughtFromSeen
from sightline.guard.evidence.batches import as_taught, users_taught
from sightline.guard.evidence.beginnings import Misplaced, never_first
from sightline.guard.evidence.later_turns import later_turns, whole_turns
from sightline.guard.evidence.other_words import shifted, shown_words
from sightline.guard.evidence.prompt_masks import PromptMasksSeen, misplaced
from sightline.guard.evidence.taught_padding import pads_taught
from sightline.guard.specimen import Run

DOMAINS = ("llm", "vlm")
MASKED = "attention_mask == 0"


def find(
    batch: BatchSeen,
    loss: LossSeen | None = None,
    data: DataSeen | None = None,
    begun: TaughtFromSeen | None = None,
    prompts: PromptsSeen | None = None,
    masks: PromptMasksSeen | None = None,
    nothing: FromNothingSeen | None = None,
) -> Verdict:
    """Labels against the attention mask, the speaker, and what the gradient shows each position was trained on."""
    if nothing is not None and nothing.answers_later:
        return Withdrawn()
    begins = misplaced(masks) or never_first(begun, prompts, batch.text)
    wrong = _told(begins or shifted(loss) or shown_words(loss))
    given, batch = batch, as_taught(batch, loss)
    ids, labels, own = batch.input_ids, batch.labels, given.labels
    if finding := wrong or (_at_ends(batch, loss, given) if loss is not None else None):
        return finding
    if ids is None or labels is None or not batch.aligned or batch.phase == "evaluation":
        return CannotTell("labels of a training batch aligned with its token ids")
    taught = labels != IGNORE
    copied = own is not None and bool((labels == ids)[taught].all())  # not masked at random, nor read off a gradient
    said = (
        None if data and data.objective == "rollout" else _on_prompt(batch, taught, data, late=nothing is not None)
    )  # it may write any tag
    return _on_padding(batch, taught) or said or _on_columns(data) or (_nothing(batch, taught) if copied else None)


def _at_ends(batch: BatchSeen, loss: LossSeen, given: BatchSeen) -> Finding | None:
    """Labels with a length of their own, or of text without an attention mask, that end in padding with a gradient."""
    pads, kind, filled = pads_taught(batch, loss, given)
    where = "labels == {kind}" if not filled else "input_ids == pad" if batch.attention_mask is None else MASKED
    fix = f"{'' if filled else f'ignore_index={kind} in the loss, or '}labels[{where.format(kind=kind)}] = -100"
    seen = {"padding": pads, "with a gradient": loss.supervised, "taught": kind, "pad id": batch.pad_id}
    return Finding("error", f"{pads} padding tokens are supervised", fix, seen) if pads else None


def _on_padding(batch: BatchSeen, taught: Tensor) -> Finding | None:
    mask = batch.attention_mask
    if mask is None or mask.shape != taught.shape or not (wrong := taught & ~mask).any():
        return None
    seen = {"row": batch.marked(int(wrong.any(dim=1).nonzero()[0]))}
    return Finding("error", f"{int(wrong.sum())} padding tokens are supervised", f"labels[{MASKED}] = -100", seen)


def _on_prompt(batch: BatchSeen, taught: Tensor, data: DataSeen | None, *, late: bool) -> Finding | None:
    rows = users_taught(batch, taught) or later_turns(batch, taught) or whole_turns(batch, taught)
    message = f"{len(rows)} of {len(taught)} rows supervise what the user says"
    fix = "set labels to -100 outside the assistant's turns (completion-only collator, or the template's mask)"
    severity: Severity = "note" if data and data.whole else "error"
    return Finding(severity, message, fix, {"row": batch.marked(rows[0])}, late=late) if rows else None


def _told(wrong: Misplaced | None) -> Finding | None:
    severity: Severity = "error" if wrong and wrong.proved else "warning"
    return None if wrong is None else Finding(severity, wrong.message, wrong.fix, wrong.seen)


def _on_columns(data: DataSeen | None) -> Finding | None:
    """Rows of a prompt and a completion, of which the trainer knows which is which and teaches both."""
    if data is None or data.whole or not (taught := data.prompts_taught):
        return None
    message = f"{taught} of the first {len(data.rows)} rows supervise their prompt, and not their completion alone"
    return Finding("warning", message, "completion_only_loss=True (TRL), or -100 on the prompt", {"rows": taught})


def _nothing(batch: BatchSeen, taught: Tensor) -> Finding | None:
    empty = (~taught[:, 1:].any(dim=1)).nonzero().flatten().tolist()  # nothing predicts token 0
    if not empty:
        return None
    message = f"{len(empty)} of {len(taught)} rows have no supervised token, first {batch.row_name(empty[0])}"
    fix = "check the mask's boundary and max_length: the answer may be masked or cut off"
    return Finding("error" if len(empty) == len(taught) else "warning", message, fix, {"row": batch.marked(empty[0])})


def specimen(run: Run, *, faulty: bool) -> None:
    """Two chat rows of unequal length; the fault is labels = input_ids. The model never sees the labels."""
    import torch
    from torch import nn

    words = ("<pad>", "USER:", "ASSISTANT:", "hi", "you", "</s>")
    model = nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 6))
    ids = torch.tensor([[1, 3, 2, 4, 3, 5], [1, 4, 4, 2, 3, 5]])
    labels = ids if faulty else ids.where(torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1]]).bool(), IGNORE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer, decode=lambda chosen: " ".join(words[i] for i in chosen))
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(ids)[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
        optimizer.step()
