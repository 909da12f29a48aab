"""The tokenizer of a composed VLM: with an image token, a pad token of its own, and no id beyond the embedding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from sightline.data.templates import named
from sightline.errors import UserError
from sightline.models.export import PAIRS
from sightline.models.former_source import is_former
from sightline.models.gguf_file import readable
from sightline.models.origin import read_or_explain
from sightline.recipe.schema import Compose, Pair

PAD, BOS, EOS, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
MASK = "[MASK]"  # stands for a word that is to be filled in
WRITE = "[DEC]"  # begins a text that a Q-Former writes


def load_tokenizer(spec: Compose, texts: Iterable[str]) -> Any:
    """The tokenizer that `spec` asks for, with pad and image tokens added where it lacks them.

    Raises:
        UserError: no tokenizer can be had, or it has no end token.
    """
    where = "model.compose.tokenizer"
    if spec.tokenizer.build == "words":
        tokenizer = word_tokenizer((*_template_texts(spec.template), *texts), spec.image_token)
    else:
        source = spec.tokenizer.source or spec.language.source
        if source is None:
            raise UserError(
                "a language tower from a config brings no tokenizer",
                where=where,
                fix=f"set {where}.build to words, or {where}.source to a hub id or folder",
            )
        gguf_file = spec.language.gguf_file if spec.tokenizer.source is None else None
        tokenizer = read_tokenizer(source, gguf_file, where)
    return complete(tokenizer, spec.image_token, where)


def load_text_tokenizer(spec: Pair, texts: Iterable[str]) -> Any:
    """The tokenizer of a text tower, with a pad token.

    Raises:
        UserError: no tokenizer can be had.
    """
    where = "model.pair.tokenizer"
    source = spec.tokenizer.source or spec.language.source
    if spec.tokenizer.build == "words":
        tokenizer: Any = word_tokenizer(texts, None, where)
        if spec.fusion is not None:
            tokenizer.add_special_tokens({"mask_token": MASK})
    elif source is None:
        raise UserError(
            "a text tower from a config brings no tokenizer",
            where=where,
            fix=f"set {where}.build to words, or {where}.source to a hub id or folder",
        )
    else:
        tokenizer = read_tokenizer(source, None, where)
    if tokenizer.pad_token_id is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    return tokenizer


def load_query_tokenizer(spec: Compose, texts: Iterable[str]) -> Any:
    """The tokenizer of a Q-Former's text branch: that of its source, or words; the token that begins a text comes last.

    Raises:
        UserError: no tokenizer can be had.
    """
    where = "model.compose.connector"
    if spec.connector.source is not None:
        source = spec.connector.source
        folder = str(Path(source) / PAIRS) if is_former(source) else source
        tokenizer: Any = read_tokenizer(folder, None, f"{where}.source")
    elif spec.tokenizer.build == "words":
        tokenizer = word_tokenizer(texts, None)
    else:
        fix = f"set {where}.source to a BERT, or model.compose.tokenizer.build to words"
        raise UserError("a Q-Former built from nothing brings no tokenizer", where=where, fix=fix)
    tokenizer.add_tokens([WRITE], special_tokens=True)
    return tokenizer


def read_tokenizer(source: str, gguf_file: str | None, where: str) -> Any:
    """The tokenizer in `source`, as it stands there. Raises UserError where it cannot be read."""
    if gguf_file is None:
        return read_or_explain(lambda: AutoTokenizer.from_pretrained(source), source, where)
    with readable(source, gguf_file, where) as (folder, mended):
        tokenizer = read_or_explain(lambda: AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file), source, where)
    if mended:  # its pad token is the stand-in for one that the file does not have
        tokenizer.pad_token = None
    return tokenizer


def complete(tokenizer: Any, image_token: str, where: str) -> Any:
    """`tokenizer` with an image token and a pad token that is not its end token (which must stay supervised)."""
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no end token, so a model could never learn to stop",
            where=where,
            fix=f"give another tokenizer in {where}.source, or set eos_token in its tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.add_tokens([image_token], special_tokens=True)
    if len(tokenizer.encode(image_token, add_special_tokens=False)) != 1:
        raise UserError(
            f"'{image_token}' does not become one token",
            where="model.compose.image_token",
            fix="choose a text that stands for nothing else, e.g. <image>",
        )
    return tokenizer


def word_tokenizer(
    texts: Iterable[str], image_token: str | None, where: str = "model.compose.tokenizer"
) -> PreTrainedTokenizerFast:
    """Lower-cased words and single punctuation marks of `texts`, the most frequent first, ties by alphabet."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import WordLevel

    split = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    counts: Counter[str] = Counter()
    for text in texts:
        for word, _ in split.pre_tokenize_str((text.replace(image_token, " ") if image_token else text).lower()):
            counts[word] += 1
    if not counts:
        raise UserError(
            "there is no text to build a word-level tokenizer from",
            where=f"{where}.build",
            fix=f"name a data set with text in the stages, or set {where}.source",
        )
    special = [PAD, BOS, EOS, UNKNOWN, *([image_token] if image_token else [])]
    words = [word for word in sorted(counts, key=lambda word: (-counts[word], word)) if word not in special]
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate((*special, *words))}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = split
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=BOS, eos_token=EOS, unk_token=UNKNOWN
    )


def _template_texts(name: str) -> Iterable[str]:
    """The words that the chat template itself says."""
    for value in astuple(named(name))[1:]:
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str):
                yield text


@torch.no_grad()
def fit_embeddings(language: PreTrainedModel, tokenizer: Any) -> None:
    """Give every token of `tokenizer` an embedding row; the rows that are added start at the mean of the others.

    A model may hold more rows than its tokenizer has tokens; they are kept, since they are part of its published size.
    """
    rows = language.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        tables = (language.get_input_embeddings(), language.get_output_embeddings())
        for weight in {id(table.weight): table.weight for table in tables if table is not None}.values():
            weight[rows:] = weight[:rows].mean(0)
    language.config.pad_token_id = tokenizer.pad_token_id
    if language.get_input_embeddings().padding_idx is not None:
        language.get_input_embeddings().padding_idx = tokenizer.pad_token_id
