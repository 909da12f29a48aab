"""X4 · Image placeholders are cut off by truncation, so text and image features no longer meet.

Symptom: "Image features and image tokens do not match" in the middle of an epoch; or, where the code pads or drops to
make them fit, no error at all: long rows train on a part of their image, or on another row's.
Root cause: the tokenizer truncates at `max_length` after the placeholders were put in, while the image processor keeps
all features. Or the placeholder's own id is left in the labels, and the model learns to say it.
Fix: never truncate inside an image span: set `max_length=None` or above prompt + image tokens, leave rows that do not
fit out (and count them), or lower the image resolution; set labels at the placeholder's id to -100.
Stays silent when: every image has its placeholders (one, or as many as it has features) in every row, at preflight and
live, and none of them is supervised. A model that names no placeholder has one inferred, the token whose embedding is
written over: only where spans of it end at one column and are of unlike lengths, or where some rows have fewer places
than features are scattered for them. Or the one whose runs are as long as an image has features, and shorter at an end
of just those rows that are as long as any: smaller images stand in shorter rows too. Or the one that is taught,
where the table of tokens has no gradient for it, and has one for all else that is taught. Without placeholders: where
words and features are joined and cut to one length in several batches, which takes two features or more; or the
last features of several batches are left over where a mask names fewer places.
Sources:
- https://github.com/huggingface/trl/pull/5904 (2026-06-01): truncation drops placeholders, the processor keeps
  features
- https://github.com/huggingface/trl/pull/5927 (2026-06-03): the error kept on purpose: dropping images changes
  training
- https://github.com/2U1/Qwen-VL-Series-Finetune/issues/218 (2025-11-16): the same error from a data format, not a
  limit
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import BatchSeen, JoinedSeen, LossSeen, Setup
from sightline.guard.evidence.batches import as_taught
from sightline.guard.specimen import Run

DOMAINS = ("vlm",)


def find(batch: BatchSeen, setup: Setup, loss: LossSeen | None = None, joined: JoinedSeen | None = None) -> Verdict:
    """Compare the placeholders in the ids with the features that are to replace them, or those that were joined."""
    if joined is not None:
        return _joined(joined)
    placeholders, image = batch.placeholders, batch.image_token_id
    if placeholders is None or image is None:
        return CannotTell("token ids, or an image placeholder's id")
    if supervised := _supervised(batch, image, loss if loss and loss.step == batch.step else None):
        return Finding(
            severity="error",
            message=f"{supervised} image placeholders are supervised: the model learns to say them",
            fix=f"set labels to -100 where input_ids == {image}",
            seen={"supervised placeholders": supervised},
        )
    total, spans = sum(placeholders), batch.image_spans
    if spans is None:
        return CannotTell("number of images in a batch")
    if spans == total:  # one placeholder an image, widened by the model (or neither)
        return None
    features = batch.image_features if spans else 0
    if features is None and setup.tokens_per_image is not None:
        features = spans * setup.tokens_per_image
    if features is None:
        return CannotTell("number of features that an image has")
    return None if features == total else _cut(batch, placeholders, total, features, spans)


def _joined(seen: JoinedSeen) -> Finding:
    lost, counts = seen.features - seen.left, {"features": seen.features, "left": seen.left}
    what = f"{lost} of an image's {seen.features} features are cut off: what text and image are joined to is cut to"
    fix = "cut the text before it is joined, to what the features leave, or raise the limit"
    if (batches := seen.batches) is None:
        return Finding("error", f"{what} {seen.length} places", fix, {**counts, "length": seen.length})
    what = f"{lost} of a batch's {seen.features} image features find no placeholder (so in {batches[0]} of {batches[1]}"
    fix = "raise max_length or set it to None; never truncate inside an image; raise where the counts differ"
    return Finding("error", f"{what} batches), and rows get those of others' images", fix, dict(counts))


def _supervised(batch: BatchSeen, image: int, loss: LossSeen | None) -> int:
    """Placeholders that are labels; where the loop keeps these to itself, such as the loss's gradient leads to."""
    if batch.labels is not None:
        return int(batch.labels.eq(image).sum())
    if loss is None or (taught := as_taught(batch, loss)).labels is None or taught.input_ids is None:
        return 0
    return int((taught.labels.eq(image) & taught.input_ids.eq(image)).sum())


def _cut(batch: BatchSeen, placeholders: tuple[int, ...], total: int, features: int, spans: int) -> Finding:
    """Name the row whose placeholders are no whole number of images, where all images are alike."""
    each = features // spans if spans and features % spans == 0 else None
    broken = [batch.row_name(row) for row, count in enumerate(placeholders) if each and count % each]
    first = f"; first in {broken[0]}" if broken else ""
    width = len(batch.input_ids[0]) if batch.input_ids is not None else 0
    return Finding(
        severity="error",
        message=f"{total} image placeholders in the ids for {features} features of {spans} images{first}",
        fix=f"raise max_length (rows are {width} tokens wide) or set it to None; never truncate inside an image",
        seen={"placeholders": total, "placeholder id": batch.image_token_id, "features": features, "rows": broken[:5]},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """Rows of four image tokens and four words, cut to `max_length` from the left."""
    import torch
    from torch import nn

    class TinyVLM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vision = nn.Conv2d(3, 8, 4, stride=4)
            self.connector = nn.Linear(8, 8)
            self.language = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 16))

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
            seen = self.connector(self.vision(pixel_values).flatten(2).transpose(1, 2)).flatten(0, 1)
            text = self.language[0](input_ids)
            text[input_ids == 9] = seen[: int((input_ids == 9).sum())]  # features too many are dropped in silence
            logits = self.language[1](text)
            return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())

    model, max_length = TinyVLM(), 8
    if faulty:
        max_length = 6
    ids = torch.tensor([[9, 9, 9, 9, 1, 2, 3, 4], [9, 9, 9, 9, 4, 3, 2, 1]])[:, -max_length:]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run.attach(model, optimizer, image_token_id=9)
    for _ in range(2):
        optimizer.zero_grad()
        labels = ids.masked_fill(ids == 9, -100)
        model(input_ids=ids, labels=labels, pixel_values=torch.randn(2, 3, 8, 8)).backward()
        optimizer.step()
