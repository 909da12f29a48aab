"""How the VQA evaluation code rewrites an answer before it compares it, oddities included.

Two steps. *Punctuation* goes, and most full stops. *Words* are lower-cased; number words become digits, articles go,
and contractions get their apostrophe back. What looks like a mistake below is one of the official code, kept because
published figures have it:

- a sign beside a space anywhere in the answer, or any sign once a comma stands between two digits, is taken out;
  otherwise it becomes a space ("t-shirt" and "a - b" end up differently);
- the pattern for full stops was meant to spare those after a digit; its look-behind is misspelt and spares none. One
  before a digit stays (".5", "3.5");
- the flag `re.UNICODE` stands where `sub` takes a count, and its value is 32: the 33rd full stop stays;
- "none" becomes "0"; "somebody'd" loses its apostrophe where every other contraction gains one.

Sources:
- https://github.com/GT-Vision-Lab/VQA, PythonEvaluationTools/vqaEvaluation/vqaEval.py (2021-03-11)
- https://github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/_task_utils/vqa_eval_metric.py (0.7.3): the same, but
  several commas in a row between two digits count as one
"""

from __future__ import annotations

import re
from collections.abc import Callable

SIGNS = ';/[]"{}()=+\\_-><@`,?!'
STOPS_REMOVED = 32  # the integer value of re.UNICODE
COUNTED = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMBERS = {word: str(value) for value, word in enumerate(COUNTED)} | {"none": "0"}
ARTICLES = frozenset({"a", "an", "the"})

# Each is recognised when exactly one of its apostrophes is missing. Those of "I" are left out: words are lower-cased
# before they are looked up.
CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _with_one_missing(word: str) -> list[str]:
    return [word[:place] + word[place + 1 :] for place, sign in enumerate(word) if sign == "'"]


CONTRACTIONS = {missing: word for word in CONTRACTED.split() for missing in _with_one_missing(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"

_ANY_SIGN = re.compile(f"[{re.escape(SIGNS)}]")
_STOP = re.compile(r"\.(?!\d)")
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"\d,+\d")
CACHED = 1 << 18  # answers repeat: 2,000,000 of VQAv2 are 100,000 different ones


class _Kept(dict[str, str]):
    """What a function makes of texts, kept: a look-up costs a third of one by `lru_cache`, and there are millions."""

    def __init__(self, function: Callable[[str], str]) -> None:
        self.function = function

    def __missing__(self, text: str) -> str:
        if len(self) >= CACHED:
            self.clear()
        self[text] = made = self.function(text)
        return made


def _tidy(answer: str) -> str:
    return answer.replace("\n", " ").replace("\t", " ").strip()


def without_punctuation(text: str, in_number: re.Pattern[str] = _COMMA_IN_NUMBER) -> str:
    """`text` without signs and full stops; `in_number` finds the comma for whose sake all signs are taken out."""
    if found := set(_ANY_SIGN.findall(text)):
        all_out = "," in found and in_number.search(text) is not None
        gone = {sign for sign in found if all_out or f"{sign} " in text or f" {sign}" in text}
        text = text.translate({ord(sign): "" if sign in gone else " " for sign in found})
    return _STOP.sub("", text, count=STOPS_REMOVED) if "." in text else text


def in_plain_words(text: str) -> str:
    """`text` in lower case, numbers up to ten as digits, without articles, with the apostrophes of contractions."""
    words = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def _clean(answer: str) -> str:
    return in_plain_words(without_punctuation(tidy(answer)))


def _clean_lmms(answer: str) -> str:
    return in_plain_words(without_punctuation(tidy(answer), _COMMAS_IN_NUMBER))


# The answer in one line: line feeds and tabs are spaces, and there are none around it.
tidy: Callable[[str], str] = _Kept(_tidy).__getitem__
# The first step alone, on the answer as it stands.
without_signs: Callable[[str], str] = _Kept(without_punctuation).__getitem__
# Both steps, on the tidied answer.
clean: Callable[[str], str] = _Kept(_clean).__getitem__
# Both steps as lmms-eval does them.
clean_lmms: Callable[[str], str] = _Kept(_clean_lmms).__getitem__
