"""Scores of a file of captions: CIDEr, BLEU-1 to 4, ROUGE-L, and METEOR where it is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sightline.errors import UserError, nearest
from sightline.evaluate import bootstrap
from sightline.evaluate.captions import overlap
from sightline.evaluate.captions.overlap import Tokens
from sightline.evaluate.captions.tokens import TOKENIZERS, tokenized
from sightline.evaluate.json_file import Source, members

Id = int | str
ANNOTATIONS, PREDICTIONS = "--annotations", "--predictions"
OWN = "definitions of pycocoevalcap 1.2"


@dataclass(frozen=True, slots=True)
class CaptionScore:
    """Figures in [0, 1] (CIDEr: [0, 10]) with their 95 % bootstrap intervals over images.

    Attributes:
        marks: by score, each image's; BLEU is of the corpus alone.
        unanswered: images left out for want of a prediction.
        unknown: predictions left out for want of references.
    """

    tokenizer: str
    images: list[Id]
    figures: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    marks: dict[str, list[float]]
    unanswered: int
    unknown: int

    def facts(self) -> dict[str, Any]:
        """What `sightline score captions --json` prints."""
        left_out = {"unanswered": self.unanswered, "unknown_predictions": self.unknown}
        partial = any(left_out.values())
        return {
            **self.figures,
            "intervals": {name: list(ends) for name, ends in self.intervals.items()} if len(self.images) > 1 else None,
            "tokenizer": self.tokenizer,
            "definitions": OWN,
            "images": len(self.images),
            "partial": partial,
            **(left_out if partial else {}),
        }


def score_captions(
    annotations: Source,
    predictions: Source,
    *,
    tokenizer: str = "words",
    meteor: bool = False,
    partial: bool = False,
) -> CaptionScore:
    """Score one caption an image against what people said of it.

    Args:
        annotations: COCO captions (`{"annotations": [{image_id, caption}]}`), or `{image id: [captions]}`.
        predictions: COCO results (`[{image_id, caption}]`), or `{image id: caption}`.
        tokenizer: "words" (ours, no Java) or "penn-treebank" (the original, by pycocoevalcap and Java).
        meteor: also METEOR 1.5, by pycocoevalcap and Java.
        partial: score only images that both files have; otherwise one that is missing is an error.

    Raises:
        UserError: what is wrong with the files, or does not fit together, or is not installed.
    """
    if tokenizer not in TOKENIZERS:
        raise UserError(f"there is no tokenizer '{tokenizer}'", where="--tokenizer", fix=nearest(tokenizer, TOKENIZERS))
    known: dict[Id, list[str]] = {}
    for image, caption in _captions(annotations, ANNOTATIONS):
        known.setdefault(image, []).append(caption)
    said: dict[Id, str] = {}
    for image, caption in _captions(predictions, PREDICTIONS):
        if image in said:
            raise UserError(f"image {image} has more than one caption", where=PREDICTIONS)
        said[image] = caption
    images = [image for image in known if image in said]
    _complete([image for image in known if image not in said], [i for i in said if i not in known], images, partial)
    given = tokenized([said[image] for image in images], tokenizer)
    flat = tokenized([caption for image in images for caption in known[image]], tokenizer)
    tokens = iter(flat)
    references = [[next(tokens) for _ in known[image]] for image in images]
    return _scored(images, given, references, tokenizer, meteor, (len(known) - len(images), len(said) - len(images)))


def _scored(
    images: list[Id],
    given: list[list[str]],
    references: list[list[list[str]]],
    tokenizer: str,
    meteor: bool,
    left_out: tuple[int, int],
) -> CaptionScore:
    marks = {"CIDEr": overlap.cider_d(given, references), "ROUGE-L": overlap.rouge_l(given, references)}
    figures = {name: sum(values) / len(values) for name, values in marks.items()}
    intervals = {name: bootstrap.interval(values) for name, values in marks.items()}
    if meteor:  # the corpus' figure is no mean of the images': only the width of its interval is known
        figures["METEOR"], each = _meteor(given, references)
        low, high = bootstrap.interval(each)
        aside = figures["METEOR"] - sum(each) / len(each)
        marks["METEOR"], intervals["METEOR"] = each, (low + aside, high + aside)
    counts = overlap.bleu_counts(given, references)
    bleus = overlap.bleu(counts.sum(0, keepdims=True))[0]
    resampled = overlap.bleu(bootstrap.resampled(counts))
    for n, value in enumerate(bleus.tolist()):
        figures[f"BLEU-{n + 1}"] = value
        intervals[f"BLEU-{n + 1}"] = bootstrap.middle(resampled[:, n])
    return CaptionScore(tokenizer, images, figures, intervals, marks, *left_out)


def _meteor(given: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> tuple[float, list[float]]:
    """METEOR 1.5 of the corpus and of each image (Denkowski & Lavie 2014).

    Stems, synonyms and paraphrases come from its Java archive.
    """
    try:
        from pycocoevalcap.meteor.meteor import Meteor
    except ImportError as error:
        raise UserError(
            "METEOR comes with pycocoevalcap, which is not installed", fix="pip install pycocoevalcap"
        ) from error
    if shutil.which("java") is None:
        raise UserError("METEOR needs Java", fix="install a Java runtime, or leave --meteor out")
    known = {place: [" ".join(tokens) for tokens in each] for place, each in enumerate(references)}
    whole, marks = Meteor().compute_score(known, {place: [" ".join(tokens)] for place, tokens in enumerate(given)})
    return float(whole), [float(mark) for mark in marks]


def _captions(source: Source, file: str) -> Iterator[tuple[Id, str]]:
    """The captions of a file, each with its image."""
    found = False
    others: dict[str, Any] = {}
    for name, value in members(source, file):
        if name is not None and name not in ("annotations", "predictions", "results"):
            others.setdefault(name, []).extend(value) if isinstance(value, list) else others.update({name: value})
            continue
        for record in value if isinstance(value, list) else [value]:
            if not isinstance(record, dict) or "image_id" not in record:
                raise UserError(f"has a record without image_id: {str(record)[:60]}", where=file)
            found = True
            yield _caption(record["image_id"], record.get("caption"), file)
    if found:
        return
    if not others or not all(isinstance(value, (str, list)) for value in others.values()):
        raise UserError("has no captions", where=file, fix='write [{"image_id": 1, "caption": "a cat"}]')
    for image, captions in others.items():
        for caption in captions if isinstance(captions, list) else [captions]:
            yield _caption(int(image) if image.isdecimal() else image, caption, file)


def _caption(image: Any, caption: Any, file: str) -> tuple[Id, str]:
    if type(image) not in (int, str):
        raise UserError(f"has {image!r} for an image_id, not a whole number or text", where=file)
    if not isinstance(caption, str):
        raise UserError(f"image {image} has {str(caption)[:40]!r} for its caption, not text", where=file)
    return image, caption


def _complete(missing: list[Id], unknown: list[Id], both: list[Id], partial: bool) -> None:
    fix = "--partial scores the images that both files have" if both else "give both files of one split"
    if missing and not (partial and both):
        what = f"{len(missing):,} images have no caption (the first: {missing[0]})"
        raise UserError(what, where=PREDICTIONS, fix=fix)
    if unknown and not (partial and both):
        what = f"{len(unknown):,} captions are of images without references (the first: {unknown[0]})"
        raise UserError(what, where=PREDICTIONS, fix=fix)
    if not both:
        raise UserError("there are no captions to score", where=ANNOTATIONS)
