"""The words of a caption, as the COCO caption scores count them.

The scores are defined on what Stanford's Penn Treebank tokenizer (Java) makes of captions, lower-cased and without
punctuation (Chen et al., Microsoft COCO Captions, arXiv 1504.00325, section 4.1). `words` follows its rules as far as
captions need them, in Python; `penn_treebank` runs the original, which pycocoevalcap brings along. Figures from
different tokenizers are not comparable to the last digit, so each score says which one it counted by.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence

from sightline.errors import UserError

TOKENIZERS = ("words", "penn-treebank")

_CLITIC = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))(?!\w)")
_APART = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b|\b(got)(ta)\b|\b(gim|lem)(me)\b|\b(y')(all)\b")
_TOKEN = re.compile(
    r"n't(?!\w)|'(?:s|m|d|re|ve|ll)(?!\w)"  # what was split off
    r"|(?:[a-z]\.){2,}"  # u.s.
    r"|(?:mr|mrs|ms|dr|st|jr|sr|vs|etc)\.(?=\s+\S)"  # a full stop that ends no sentence
    r"|\d+(?:[.,:/]\d+)+|\.\d+"  # 3.5, 1,000, 10:30, 1/2
    r"|'\d\ds(?!\w)"  # '60s
    r"|\w+(?:[-'&_/.]\w+)*"  # t-shirt, o'clock, black/white
    r"|[^\w\s]"
)
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_DROPPED = frozenset("'`\".?!,:-;\u2026\u2013\u2014\u2018\u2019\u201c\u201d")


def words(caption: str) -> list[str]:
    """The tokens of `caption`: lower-case words and numbers, with contractions apart and without punctuation."""
    text = caption.lower().replace("\u2019", "'")
    text = _APART.sub(lambda found: " ".join(part for part in found.groups() if part), text)
    text = _CLITIC.sub(r" \1", text)
    tokens = (_BRACKETS.get(token, token) for token in _TOKEN.findall(text))
    return [token for token in tokens if token not in _DROPPED]


def penn_treebank(captions: Sequence[str]) -> list[list[str]]:
    """The same by the original. Raises UserError where pycocoevalcap or Java is not installed."""
    try:
        from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer
    except ImportError as error:
        fix = "pip install pycocoevalcap, or --tokenizer words"
        raise UserError(
            "the Penn Treebank tokenizer comes with pycocoevalcap, which is not installed", fix=fix
        ) from error
    if shutil.which("java") is None:
        raise UserError("the Penn Treebank tokenizer needs Java", fix="install a Java runtime, or --tokenizer words")
    lines = {place: [{"caption": caption}] for place, caption in enumerate(captions)}
    return [line.split() for [line] in PTBTokenizer().tokenize(lines).values()]


def tokenized(captions: Sequence[str], tokenizer: str) -> list[list[str]]:
    """The tokens of each caption by one of `TOKENIZERS`."""
    return penn_treebank(captions) if tokenizer == "penn-treebank" else [words(caption) for caption in captions]
