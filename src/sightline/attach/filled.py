"""Texts that a script of this process fills up: the values by which it does, and in which all of them end before.

Without anybody who tells, nothing is known. What is filled up in other processes (a loader's workers) is not.
"""

from __future__ import annotations

from collections import Counter

ENDED: Counter[int] = Counter()  # value -> calls whose texts, of several lengths, end in it once before they are filled
OTHERS: set[int] = set()  # values that some text of another call does not end in
