"""Exact match after normalisation, and the Wilson interval of an accuracy. Pure functions of strings and counts."""

from __future__ import annotations

import math
import re
import unicodedata
from functools import lru_cache

Z95 = 1.959963984540054  # the standard normal's 0.975 quantile

_BETWEEN_DIGITS = re.compile(r"(?<=\d),(?=\d)")  # 1,000
_MEANT = re.compile(r"[-.](?=\d)|(?<=\d)[/:](?=\d)")  # -3, 3.5, 1/2, 10:30: without the sign another number


@lru_cache(maxsize=1 << 16)  # answers and questions repeat
def normalise(answer: str) -> str:
    """`answer` as exact match compares it.

    Unicode compatibility forms are folded (NFKC), letters lower-cased, apostrophes and thousands commas removed, other
    punctuation turned into spaces except the signs that belong to a number (-3, 3.5, 1/2, 10:30), and spaces squeezed.
    An answer of punctuation alone is compared as it stands.
    """
    text = unicodedata.normalize("NFKC", answer).lower().strip()
    kept = _BETWEEN_DIGITS.sub("", text.replace("'", "").replace("\u2019", ""))
    meant = {match.start() for match in _MEANT.finditer(kept)}
    spaced = "".join(
        " " if unicodedata.category(character).startswith("P") and place not in meant else character
        for place, character in enumerate(kept)
    )
    return " ".join(spaced.split()) or text


def exact_match(answer: str, truth: str) -> bool:
    """Whether `answer` is `truth` once both are normalised."""
    return normalise(answer) == normalise(truth)


def wilson(correct: int, total: int, z: float = Z95) -> tuple[float, float]:
    """Confidence interval of the proportion correct / total (Wilson 1927, doi:10.1080/01621459.1927.10502953).

    Unlike the normal approximation it stays inside [0, 1] and has a width at 0 and at 1, where accuracies live.

    Raises:
        ValueError: unless 0 <= correct <= total and total > 0.
    """
    if not 0 <= correct <= total or total == 0:
        raise ValueError(f"{correct} right of {total} is no proportion")
    share, weight = correct / total, z * z / total
    centre = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / total + weight / (4 * total))
    low = 0.0 if correct == 0 else max(0.0, centre - half)  # exact where rounding would leave 1e-17
    high = 1.0 if correct == total else min(1.0, centre + half)
    return low, high
