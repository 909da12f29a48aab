"""X5 · The model answers from the text alone: which image it is shown makes no difference.

Symptom: fluent, plausible answers that do not depend on the picture; a fine loss, and the score of a blind model.
Root cause: the image features never reach the language model (computed and not put in place of the placeholders,
multiplied by zero, masked from attention, or behind the text under a causal mask); or they stay meaningless, because
the connector does not learn (X1), was reset (X2), learns too slowly or is drowned (X3); or images and texts are
mispaired; or all images are one (numbers from 0 to 1 cast to bytes, a wrong folder, an index that never moves).
Fix: put the connector's output in place of the image placeholders, with attention_mask 1; then rule out X1, X2 and X3,
look at a batch as the model is given it, row i's image beside row i's text, and train the connector longer.
Stays silent when: the true image lowers the loss of its own text below that with another row's image; too few steps
were taken to learn to look (but features made beforehand tell a straight line nothing of any word of their texts); the
text leaves nothing open (its loss is near zero); the batch is too small or noisy; blank images are followed by others.
Sources:
- https://arxiv.org/abs/1612.00837 (2016-12-02): language priors let VQA models score while ignoring the image
- https://ar5iv.labs.arxiv.org/html/1712.00377 (2017-12-01): answers driven by priors; another split takes them away
- https://docslib.org/doc/8607586/revisiting-visual-question-answering-baselines (2016-11-22): how far biases alone go
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict, Withdrawn
from sightline.guard.evidence import FeaturesSeen, History, ImagePairsSeen, PicturesSeen, SignalsSeen
from sightline.guard.evidence.no_part import no_part
from sightline.guard.evidence.trends import falling
from sightline.guard.specimen import Run

DOMAINS = ("vision", "vlm")
CONNECTED = 8  # steps until images must reach the logits: gates that start at zero open with the first updates
LEARNT = 1000  # steps until they should matter: about half of LLaVA-1.5's whole alignment stage (2,180 steps)
ROWS, SURE = 4, 3.2  # pairs that a spread is told from, and standard errors: Student's t at 97.5 % for so many
EFFECT, OPEN = 0.01, 0.05  # of the loss: surely less help is none; nats a token: below, the text alone settles it


def find(
    pairs: ImagePairsSeen | None = None,
    history: History | None = None,
    pictures: PicturesSeen | None = None,
    features: FeaturesSeen | None = None,
    signals: SignalsSeen | None = None,
) -> Verdict:
    """Own image against another row's, on the same text: each row is its own control."""
    if found := (pictures and _one_image(pictures, pairs)) or (features and _strangers(features)):
        return found
    no = no_part(history) if history is not None else None
    if no is not None and pairs is None and signals is not None and signals.various:
        return Finding("error", no.what, no.remedy, no.seen)
    if pairs is None:
        return CannotTell("batch with two or more images and labels that was probed")
    if pairs.step < CONNECTED:
        return CannotTell(f"{CONNECTED} optimizer steps before the images were swapped")
    if not pairs.changed or pairs.first_alone:
        return _unmoved(pairs)
    if no is not None:
        return Finding("error", no.what, no.remedy, no.seen)
    rows = pairs.own != pairs.other  # a row without an image stays as it is
    own, gain = float(pairs.own[rows].mean()), (pairs.other - pairs.own)[rows]
    if len(gain) < ROWS:
        return CannotTell(f"{ROWS} rows with images of which one could be swapped for another")
    mean, error = float(gain.mean()), float(gain.std()) / len(gain) ** 0.5
    if mean > SURE * error:
        return None
    losses = [step.loss for step in history.steps if step.loss is not None] if history else []
    if pairs.step < LEARNT or falling(losses) or own < OPEN or mean + SURE * error > EFFECT * own:
        return CannotTell("settled loss above zero, with enough pairs to tell a small effect from none")
    what = f"after {pairs.step} steps another row's image serves as well as the true one: images are ignored"
    fix = "rule out X1 to X3 and mispaired images, then train the connector longer on captions, or at a higher rate"
    return Finding("warning", what, fix, {"rows": len(gain), "loss": own, "gain": mean, "standard error": error})


def _unmoved(pairs: ImagePairsSeen) -> Finding:
    rows, first = len(pairs.own), pairs.first_alone
    what = "logit: they do not reach the language model" if rows else "output: what is made of them goes nowhere"
    what = "logit but the first: no text behind it sees them" if first else what
    fix = "put what is made of the image where the text reads it: at its placeholders, with attention_mask 1"
    facts = {"rows": rows, "loss": float(pairs.own.mean())} if rows else {"with other images": "the same"}
    return Finding("error", f"swapping the images of a batch changes no {what}", fix, facts)


def _strangers(seen: FeaturesSeen) -> Finding | None:
    what = f"nothing in the features of {seen.rows} rows goes with their texts, and another row's serve as well"
    fix = "keep features in the order of the texts, or under the name of their image"
    return Finding("warning", what, fix, {"correlation with words": seen.told}) if seen.strangers else None


def _one_image(seen: PicturesSeen, pairs: ImagePairsSeen | None) -> Verdict:
    if seen.over:
        return Withdrawn() if pairs is None or pairs.step <= seen.step else None
    what = "one and the same" if seen.value is None else f"{seen.value:.4g} at each pixel"
    what = f"all {seen.images} images of {seen.batches} batches are {what}: there is nothing to look at"
    fix = "look at a batch as the model is given it: a cast to bytes before * 255, a wrong folder, a fixed index"
    return Finding("error", what, fix, {"shape": list(seen.shape), "pixel": seen.value}, late=seen.value is not None)


def specimen(run: Run, *, faulty: bool) -> None:
    """One question about the brightness of an image; the fault is features that never replace their placeholder."""
    import torch
    from torch import nn

    class TinyVLM(nn.Module):
        image_token_id, blind = 5, False

        def __init__(self) -> None:
            super().__init__()
            self.vision, self.connector = nn.Conv2d(1, 8, 4), nn.Linear(8, 8)
            self.language = nn.ModuleList([nn.Embedding(6, 8), nn.GRU(8, 16, batch_first=True), nn.Linear(16, 6)])

        def forward(self, input_ids: torch.Tensor, labels: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
            seen = self.connector(self.vision(pixel_values).flatten(1))
            text = self.language[0](input_ids)
            if not self.blind:
                text = torch.cat([seen[:, None], text[:, 1:]], dim=1)
            return self.language[2](self.language[1](text)[0])

    model = TinyVLM()
    if faulty:
        model.blind = True
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    run.attach(model, optimizer)
    answer = torch.arange(16) % 2
    ids = torch.stack([torch.full_like(answer, 5), torch.full_like(answer, 2), answer + 3], dim=1)
    labels = ids.masked_fill(torch.tensor([True, True, False]), -100)
    for _ in range(24):
        optimizer.zero_grad()
        images = answer.view(-1, 1, 1, 1) + 0.5 * torch.randn(16, 1, 4, 4)
        logits = model(ids, labels, pixel_values=images)
        nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
        optimizer.step()
