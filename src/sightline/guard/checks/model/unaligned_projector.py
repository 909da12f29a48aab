"""X2 · The language model is shown image features that are not aligned with its text embeddings.

Symptom: the loss starts where a text model's would and then jumps, and the language model's text gets worse; or image
answers stay at chance after a stage that should have used an aligned projector; or shapes that do not match; or the
tower's features hardly differ from image to image.
Root cause: the language model learns at full heat while the projector is still random (stage 1 without freezing, or
stage 2 without stage 1's projector), so it adapts to noise; the projector is initialised anew in the middle of a run;
its width is not the language model's; or its output is larger or smaller than text embeddings by orders of magnitude;
or the tower is given pixels of 0 to 255, or such as were divided by 255 twice.
Fix: train the projector alone first (language.requires_grad_(False), lr 1e-3); load its weights before stage 2 and
never re-initialise them; set its output width to the language model's hidden size; put a LayerNorm after it; let the
tower's own processor rescale, once.
Stays silent when: everything starts from scratch; only the projector learns; projector and language model learn
together without the loss rising (single-stage recipes do); features are up to 1000 times the text embeddings' size,
as trained models' are 10 to 100 times; a gate that starts at zero still lets nothing through; a norm comes first in
the tower, or it was loaded, and is none of transformers'.
Sources:
- https://arxiv.org/html/2512.08374v1 (2025-12-09): visual tokens far above text in norm in trained models, and a
  LayerNorm after the projector
- https://leeroopedia.com/index.php/Principle:Haotian_liu_LLaVA_Feature_Alignment_Pretraining (2026-02-13): LLaVA's
  first stage, projector alone
- https://github.com/haotian-liu/LLaVA/issues/1345 (2024-03-27): projector weights newly initialised on loading
- https://github.com/haotian-liu/LLaVA/issues/673 (2023-10-26): a trained projector's weights not used on loading
"""

from __future__ import annotations

from sightline.guard.check import CannotTell, Finding, Verdict
from sightline.guard.evidence import BatchSeen, History, RenewedSeen, Setup, SignalsSeen
from sightline.guard.evidence.origin import forgetting, fresh, jumped
from sightline.guard.specimen import Run

DOMAINS = ("vlm",)
FAR = 1e3  # ratio of root mean squares: ten times what trained models show
OPEN = 64  # steps until features may no longer be near zero: gates that start closed have opened
NOTHING = 0.2  # correlation with what was learnt: of thousands of elements, chance leaves a few hundredths


def find(
    setup: Setup,
    signals: SignalsSeen | None = None,
    batch: BatchSeen | None = None,
    history: History | None = None,
    renewed: RenewedSeen | None = None,
) -> Verdict:
    """Width and size of the features, and what the steps do to the towers on both sides."""
    if signals is not None and (finding := _pixels(signals) or _width(signals, batch) or _size(signals)):
        return finding
    if "connector" not in setup.towers or (signals is None and history is None):
        return CannotTell("connector in use")
    if history is not None and (finding := _reset(history, renewed) or _hot(history, setup)):
        return finding
    if history is None and (signals is None or not signals.connector_rms):
        return CannotTell("connector in use")
    return None


def _pixels(signals: SignalsSeen) -> Finding | None:
    pixels = signals.pixels
    if pixels is None or (wrong := pixels.wrong) is None:
        return None
    return Finding("warning", f"the vision tower is given {wrong[0]}", wrong[1], {"root mean square": pixels.size})


def _width(signals: SignalsSeen, batch: BatchSeen | None) -> Finding | None:
    """Only where features replace placeholders one to one: other ways to look may use other widths."""
    ours, theirs = signals.connector_width, signals.embedding_width
    if batch is None or not batch.placeholders or signals.step or ours is None or theirs is None or ours == theirs:
        return None
    if batch.image_features != sum(batch.placeholders) or batch.image_features == batch.image_spans:
        return None
    what = f"the projector gives features of width {ours}; the language model's embeddings have {theirs}"
    fix = f"set the projector's output width to {theirs} (it is {ours})"
    return Finding("error", what, fix, {"projector width": ours, "embedding width": theirs})


def _size(signals: SignalsSeen) -> Finding | None:
    ours, theirs = signals.connector_rms, signals.embedding_rms
    if ours is None or not theirs:
        return None
    if not (ours > FAR * theirs or (ours * FAR < theirs and signals.step >= OPEN)):
        return None
    what = f"image features are {ours / theirs:.1e} times the size of the text embeddings they stand beside"
    fix = "put a LayerNorm after the projector, or initialise it so that both sizes agree"
    return Finding("warning", what, fix, {"features, root mean square": ours, "text embeddings": theirs})


def _reset(history: History, renewed: RenewedSeen | None) -> Finding | None:
    """Weights are another untrained beginning, by no step of an optimizer: between two steps, or two stages."""
    before, after = (history.steps[0], *history.steps)[-2:]
    when, moved = f"between steps {before.step} and {after.step}", jumped(before.tower("connector"), after)
    if renewed is not None and max(renewed.kept) < NOTHING and history.measured:
        after, moved = history.measured[0], list(renewed.parameters)
        when = f"at step {renewed.step}, where the language model begins to learn beside it"
    if not moved or not fresh(after, "connector"):
        return None
    fix = "initialise it once, before the optimizer is made; load its weights when a stage begins"
    return Finding("error", f"the projector was initialised anew {when}", fix, {"changed": moved[:5]})


def _hot(history: History, setup: Setup) -> Finding | None:
    language, measured = setup.towers.get("language"), history.measured
    if language is None or not language.trainable or language.adapters or not measured:
        return None
    if not fresh(measured[0], "connector") or not (seen := forgetting(history, setup)):
        return None
    return Finding(
        severity="warning",
        message="the trained language model learns at full heat beside an untrained projector, and the loss rose",
        fix="train the projector alone first: language.requires_grad_(False); then lr 2e-5 for the language model",
        seen={**seen, "language learning rates": language.learning_rates},
    )


def specimen(run: Run, *, faulty: bool) -> None:
    """A projector of a stage that has begun; the fault is to initialise it again."""
    import torch
    from torch import nn

    vision, connector, language = nn.Conv2d(3, 16, 4), nn.Linear(16, 16), nn.Embedding(9, 16)
    model = nn.ModuleDict({"vision": vision, "connector": connector, "language": language})
    model.forward = lambda x, ids: connector(vision(x).flatten(1)) + language(ids)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    run.attach(model, optimizer, towers={name: [name] for name in model})
    for step in range(28):
        if faulty and step == 26:
            connector.reset_parameters()
        optimizer.zero_grad()
        (model(torch.randn(16, 3, 4, 4), torch.arange(16) % 9) - 1).square().sum(dim=-1).mean().backward()
        optimizer.step()
