"""`sightline score perplexity`: how surprised a language model is by texts in files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging

from sightline.commands.terminal import progress, say
from sightline.data.batch import Batch, Example
from sightline.data.collate import pad
from sightline.data.pack import pack
from sightline.data.readers.text import read_text
from sightline.data.row import Where
from sightline.errors import UserError
from sightline.evaluate.answer import ready
from sightline.evaluate.perplexity import Text, document, surprise
from sightline.evaluate.texts import token_ids, window_and_stride
from sightline.models.plain import load_plain
from sightline.train.parallel.ranks import pick_device


def score(
    source: str, files: Sequence[Path], gguf_file: str | None, window: int | None, stride: int | None, batch: int
) -> dict[str, Any]:
    """The perplexity of the texts in `files`, each a document; a folder stands for the .txt files in and below it.

    Raises:
        UserError: a text that cannot be read, or a model that cannot.
    """
    if (Path(source) / "encoder").is_dir():
        told = "sightline eval RUN evaluate.metric=perplexity evaluate.data=text data.text='{reader: text, path: FILE}'"
        raise UserError("this is a run, whose own tower is judged by `sightline eval`", where=source, fix=told)
    logging.disable_progress_bar()
    texts = [(path, read_text(path, Where(str(path), 1))) for path in _files(files)]
    language = load_plain(source, gguf_file)
    device = pick_device("auto")
    language.model.to(device)
    window, stride = window_and_stride(language.model.config, window, stride)
    documents: list[Text] = []
    for path, text in texts:
        documents.append(document(Where(str(path), 1), token_ids(language.tokenizer, text), window, stride))

    def collate(examples: list[Example]) -> Batch:
        sequences = pack(examples, "none", max(map(len, examples)))
        made = Batch(**pad(sequences, 0, left=False), image_index=torch.zeros(0, dtype=torch.int64))
        return made.to(device)

    with progress("reading") as tell, ready(language.model, device, "fp32"):
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            tell(done, len(documents))

        vocabulary = len(language.tokenizer)
        found = surprise(language, documents, collate, batch=batch, vocabulary=vocabulary, progress=advance)
    return {**found.facts(), "documents": len(documents), "window": window, "stride": stride, "model": source}


def show(facts: dict[str, Any], *, as_json: bool) -> None:
    """Print what `score` found."""
    if as_json:
        say(json.dumps(facts, indent=1))
        return
    say(
        f"perplexity {facts['perplexity']:.3f} ({facts['nats']:.4f} nats a token) over {facts['tokens']:,} tokens of "
        f"{facts['documents']:,} document{'s' * (facts['documents'] != 1)}, windows of {facts['window']:,} tokens, "
        f"stride {facts['stride']:,}"
    )
    if facts["interval"]:
        low, high = facts["interval"]
        say(f"95 % interval {low:.3f} to {high:.3f} (bootstrap over documents)")


def _files(given: Sequence[Path]) -> list[Path]:
    found: list[Path] = []
    for path in given:
        inside = sorted(path.rglob("*.txt")) if path.is_dir() else [path]
        if not inside or not inside[0].is_file():
            what = "holds no .txt file" if path.is_dir() else "no such file"
            raise UserError(what, where=str(path), fix="give text files, or a folder of them")
        found += inside
    return found
