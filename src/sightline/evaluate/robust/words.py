"""Questions said otherwise: with typos, in other case, paraphrased. The picture and the true answer stay.

Only the text of the last user turn is changed; markup and pictures stay where they are.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import replace

from sightline.data.row import Row, Turn
from sightline.recipe.robust import Words

# A key's neighbours on a QWERTY keyboard, letters alone.
NEAR = {
    "a": "qwsz", "b": "vghn", "c": "xdfv", "d": "serfcx", "e": "wsdr", "f": "drtgvc", "g": "ftyhbv", "h": "gyujnb",
    "i": "ujko", "j": "huikmn", "k": "jiolm", "l": "kop", "m": "njk", "n": "bhjm", "o": "iklp", "p": "ol", "q": "wa",
    "r": "edft", "s": "awedxz", "t": "rfgy", "u": "yhji", "v": "cfgb", "w": "qase", "x": "zsdc", "y": "tghu",
    "z": "asx",
}  # fmt: skip
SHORTEST = 4  # letters: shorter words, where one letter makes another word (is, in, no), are left alone

# What keeps the meaning of any question, and what keeps that of questions that begin so. First match wins.
FRAMES = ("Please answer this question: {}", "Look at the picture. {}", "{} Please answer.", "Tell me: {}")
SAID_OTHERWISE = (
    (r"^what colou?r (is|are) (.+)$", "which color {0} {1}"),
    (r"^what (is|are) the colou?r of (.+)$", "what color {0} {1}"),
    (r"^what shape (is|are) (.+)$", "which shape {0} {1}"),
    (r"^is there (?!not\b|no\b)(.+)$", "can you see {0}"),
    (r"^are there (?!not\b|no\b)(.+)$", "can you see {0}"),
    (r"^does (?:the|this) (?:image|picture|photo) (?:not|n't)\b.*$", None),
    (r"^does (?:the|this) (?:image|picture|photo) (?:contain|show|have) (.+)$", "is there {0} in the picture"),
    (r"^how many (.+) are there\b(.*)$", "what is the number of {0}{1}"),
    (r"^where (is|are) (.+)$", "in what place {0} {1}"),
)


def typos(text: str, numbers: random.Random) -> str:
    """One word in four (at least one) gets one slip: two letters exchanged, one doubled, left out, or the next key."""
    words = text.split(" ")
    long = [place for place, word in enumerate(words) if len(word) >= SHORTEST and word.isalpha()]
    for place in numbers.sample(long, max(1, len(long) // 4)) if long else []:
        words[place] = _slip(words[place], numbers)
    return " ".join(words)


def _slip(word: str, numbers: random.Random) -> str:
    place, kind = numbers.randrange(1, len(word) - 1), numbers.choice(("exchange", "double", "drop", "near"))
    if kind == "exchange" and word[place] != word[place + 1]:
        return word[:place] + word[place + 1] + word[place] + word[place + 2 :]
    if kind == "drop":
        return word[:place] + word[place + 1 :]
    if kind == "near" and word[place].lower() in NEAR:
        return word[:place] + numbers.choice(NEAR[word[place].lower()]) + word[place + 1 :]
    return word[: place + 1] + word[place] + word[place + 1 :]


def case(text: str, numbers: random.Random) -> str:
    """All capitals; all small where the question is in capitals already."""
    return text.lower() if text.isupper() else text.upper()


def paraphrase(text: str, numbers: random.Random) -> str:
    """The same question in other words, where its form is known; else in a frame that asks the same."""
    bare, mark = text.strip().removesuffix("?").rstrip(), "?" if text.strip().endswith("?") else ""
    gap = " " if text.strip().endswith(" ?") else ""
    for pattern, form in SAID_OTHERWISE:
        if found := re.match(pattern, bare, re.IGNORECASE):
            if form is None:
                break
            said = form.format(*found.groups())
            return (said.capitalize() if text[:1].isupper() else said) + gap + mark
    return numbers.choice(FRAMES).format(text.strip())


CHANGES: dict[Words, Callable[[str, random.Random], str]] = {"typos": typos, "case": case, "paraphrase": paraphrase}


def said_otherwise(row: Row, change: Words, seed: int) -> Row:
    """`row` with its question changed: the same for the same seed and question."""
    numbers = random.Random(f"{seed} {change} {row.question}")
    return with_question(row, lambda text: CHANGES[change](text, numbers))


def with_question(row: Row, change: Callable[[str], str]) -> Row:
    """`row` with the last text of its last user turn changed."""
    last = max(place for place, turn in enumerate(row.turns) if turn.role == "user")
    turn = row.turns[last]
    texts = [place for place, part in enumerate(turn.parts) if isinstance(part, str) and part.strip()]
    if not texts:
        return row
    parts = list(turn.parts)
    told = str(parts[texts[-1]])
    kept = told.strip()
    parts[texts[-1]] = told.replace(kept, change(kept), 1)
    return replace(row, turns=(*row.turns[:last], Turn(turn.role, tuple(parts)), *row.turns[last + 1 :]))
