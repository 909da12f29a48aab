"""Perplexity of a data set: of what its rows answer, or of documents (rows in which nobody asks: reader ``text``)."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from sightline.atomic import write_text
from sightline.data.batch import Batch, Example
from sightline.data.encode_composed import start_tokens
from sightline.data.pack import pack
from sightline.data.row import Row
from sightline.errors import UserError
from sightline.evaluate.answer import Precision, ready
from sightline.evaluate.baselines import with_other_images
from sightline.evaluate.features import ImageFeatures, Lookup
from sightline.evaluate.perplexity import Surprise, Text, document, surprise
from sightline.evaluate.progress import counter
from sightline.evaluate.written import NO_GROUP
from sightline.models.adopted import AdoptedVLM
from sightline.models.build import Built
from sightline.models.composed import ComposedVLM
from sightline.models.vlm import VLM
from sightline.recipe.schema import Evaluate, Recipe

LONGEST = 2048  # tokens in a window where the recipe says nothing: what most language towers read at the least


def is_document(row: Row) -> bool:
    """Whether `row` is a text by itself: nobody asks, and nothing is shown."""
    return not row.images and [turn.role for turn in row.turns] == ["assistant"]


def token_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """`text` as tokens behind the tokenizer's start token, where it writes one by itself. No text becomes a mark."""
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
    return (*start_tokens(tokenizer), *ids)


def window_and_stride(config: Any, window: int | None, stride: int | None) -> tuple[int, int]:
    """Tokens of a window and its stride: what was asked for, else what the model reads (at most LONGEST), and half.

    Raises:
        UserError: windows beyond the positions that the model knows.
    """
    known = getattr(config, "max_position_embeddings", None)
    window = window or min(LONGEST, known or LONGEST)
    if known and window > known:
        what = f"windows of {window} tokens are longer than the {known} positions that the model knows"
        raise UserError(what, where="evaluate.window", fix=f"set it to at most {known}")
    return window, stride or max(1, window // 2)


def evaluate_perplexity(
    recipe: Recipe,
    built: Built,
    rows: Sequence[Row],
    out: Path,
    progress: Callable[[int, int], None] | None = None,
    *,
    precision: Precision = "fp32",
    limit: int | None = None,
) -> dict[str, Any]:
    """What `evaluation.json` is to say of how surprised `built` is by `rows`; writes `predictions.jsonl` to `out`.

    Rows with images are also read beside other images, where the recipe's `evaluate.looking` has "shuffled".

    Raises:
        UserError: no rows, rows and documents mixed, a row without an answer, or documents for an encoder-decoder.
    """
    started, spec = time.perf_counter(), recipe.evaluate
    asked = list(rows[:limit]) if limit else list(rows)
    reader = _Reader(built, spec, precision, documents=_documents(spec, asked))
    other = None
    if not reader.documents and "shuffled" in spec.looking and spec.shuffled_images:
        other = with_other_images(asked, recipe.seed)
    tell = counter(progress, len(asked) * (2 if other else 1))

    found = reader.read(asked, tell)
    most = recipe.data[spec.data].limit if spec.data else None
    evaluation = {
        "data": spec.data,
        "metric": "perplexity",
        "questions": len(asked),
        "partial": len(asked) < len(rows) or (most is not None and len(rows) >= most),
        "unit": "documents" if reader.documents else "rows",
        "window": reader.window,
        "stride": reader.stride,
        **found.facts(),
        "by_field": {name: _by_group(asked, found, name) for name in spec.grouped_by},
        "baselines": {},
    }
    if other:
        description = "what the same rows say, every image exchanged for another one"
        evaluation["baselines"] = {"shuffled_images": reader.read(other, tell).facts() | {"description": description}}
    evaluation["seconds"] = time.perf_counter() - started
    _write(out / "predictions.jsonl", asked, found)
    return evaluation


class _Reader:
    """Reads rows with one model: rows with what they answer, or documents in windows."""

    def __init__(self, built: Built, spec: Evaluate, precision: Precision, *, documents: bool) -> None:
        self.built, self.batch, self.precision, self.documents = built, spec.batch, precision, documents
        self.device = next(built.model.parameters()).device
        self.window: int | None = None
        self.stride: int | None = None
        if documents:
            config = _language_config(built.model)
            if config.is_encoder_decoder:
                what = f"a {config.model_type} reads a text before it writes, so it gives none of its tokens a chance"
                raise UserError(what, where="evaluate.metric", fix="ask it for the perplexity of rows with answers")
            self.window, self.stride = window_and_stride(config, spec.window, spec.stride)
        apart = not documents and not built.encoder.needs_images
        self._features = ImageFeatures(self._collate, built.model.encode_images, spec.batch) if apart else None

    def read(self, rows: Sequence[Row], tell: Callable[[int], None]) -> Surprise:
        """What each of `rows` costs."""
        lookup = self._features.lookup if self._features else None
        with ready(self.built.model, self.device, self.precision):
            return surprise(
                self.built.model,
                [self._text(row) for row in rows],
                lambda examples: self._collate(examples, lookup),
                batch=self.batch,
                vocabulary=len(self.built.encoder.tokenizer),
                order=self._features.windows if self._features else None,
                progress=tell,
            )

    def _text(self, row: Row) -> Text:
        if self.window is None or self.stride is None:
            return Text(row.where, (self.built.encoder.encode(row),))
        said = "".join(part for part in row.turns[0].parts if isinstance(part, str))
        return document(row.where, token_ids(self.built.encoder.tokenizer, said), self.window, self.stride)

    def _collate(self, examples: list[Example], lookup: Lookup | None) -> Batch:
        sequences = pack(examples, "none", max(map(len, examples)))
        return self.built.encoder.collate(sequences, features=lookup).to(self.device)


def _documents(spec: Evaluate, rows: Sequence[Row]) -> bool:
    """Whether all of `rows` are documents."""
    where = f"data.{spec.data}"
    if not rows:
        raise UserError("there is nothing to evaluate: the data set has no rows", where=where)
    count = sum(map(is_document, rows))
    if 0 < count < len(rows):
        what = f"{count} of {len(rows)} rows are texts that nobody asked for, and the others answers"
        raise UserError(what, where=where, fix="give them to two data sets")
    for row in rows:
        if not row.answered:
            raise UserError("the row holds no answer to be read", where=str(row.where), fix="ask for rows with answers")
    return bool(count)


def _language_config(model: VLM) -> Any:
    """The configuration of the language tower."""
    inner: Any = model.language if isinstance(model, ComposedVLM) else cast(AdoptedVLM, model).model
    return inner.config.get_text_config()


def _by_group(rows: Sequence[Row], found: Surprise, name: str) -> dict[str, Any]:
    """Perplexity by the value of a field. Raises UserError where no row has it."""
    if not any(name in row.fields for row in rows):
        raise UserError(f"no row has a field '{name}'", where="evaluate.group_by", fix="name one of the rows' fields")
    members: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        members[row.fields.get(name, NO_GROUP)].append(place)
    return {
        group: {"questions": len(places)}
        | Surprise(tuple(found.nats[i] for i in places), tuple(found.tokens[i] for i in places)).facts()
        for group, places in sorted(members.items())
    }


def _write(path: Path, rows: Sequence[Row], found: Surprise) -> None:
    lines = [
        {"where": str(row.where), "question": row.question, "truth": row.answer, "nats": nats, "tokens": tokens}
        for row, nats, tokens in zip(rows, found.nats, found.tokens, strict=True)
    ]
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
