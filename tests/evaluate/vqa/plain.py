"""VQA accuracy written down step by step, one question at a time, with no thought for speed: the tests' reference.

It keeps entries as dicts and changes them in place, as the code that it stands for does, and shares nothing with
`sightline.evaluate.vqa` but the table of contractions (data/clean.py).
"""

from __future__ import annotations

import copy
import re
import statistics
from typing import Any

from sightline.data.clean import CONTRACTIONS

SIGNS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
DIGITS = {"none": "0", **{word: str(value) for value, word in enumerate(WORDS)}}


def spaces(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def punctuation(text: str, comma: str = r"(\d)(,)(\d)") -> str:
    out = text
    for sign in SIGNS:
        if sign + " " in text or " " + sign in text or re.search(comma, text):
            out = out.replace(sign, "")
        else:
            out = out.replace(sign, " ")
    return re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", out, count=32)


def words(text: str) -> str:
    kept = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in kept if word not in ("a", "an", "the"))


def accuracy(rule: str, prediction: str, entries: list[dict[str, Any]]) -> float:
    """The accuracy of `prediction` against the entries of an annotation file."""
    people = copy.deepcopy(entries)
    if rule == "official":
        for entry in people:
            entry["answer"] = spaces(entry["answer"])
        prediction = spaces(prediction)
        if len({entry["answer"] for entry in people}) > 1:
            for entry in people:
                entry["answer"] = words(punctuation(entry["answer"]))
            prediction = words(punctuation(prediction))
    elif rule == "lavis":
        prediction = words(punctuation(spaces(prediction)))
        if len({entry["answer"] for entry in people}) > 1:
            for entry in people:
                entry["answer"] = punctuation(entry["answer"])
    else:
        commas = r"(?<=\d)(,)+(?=\d)"
        for entry in people:
            entry["answer"] = words(punctuation(spaces(entry["answer"]), commas))
        prediction = words(punctuation(spaces(prediction), commas))
    worth = []
    for left_out in people:
        others = [entry for entry in people if entry != left_out]
        worth.append(min(1, len([entry for entry in others if entry["answer"] == prediction]) / 3))
    if rule == "lmms-eval":
        return float(statistics.mean(worth))
    total = 0.0
    for each in worth:
        total += each
    return total / len(worth)
