"""BLEU, ROUGE-L and CIDEr of tokenized captions, by the definitions of the COCO caption evaluation.

Each function takes what was said of N images and the references of each image, as lists of tokens. The figures are
those of pycocoevalcap 1.2 on the same tokens, where its definitions differ from the papers too:

- BLEU-k (Papineni et al. 2002) over the whole corpus; the reference length of an image is the nearest (the shorter of
  two that are equally near);
- ROUGE-L (Lin 2004) with beta 1.2, from the best precision and the best recall over an image's references, which may be
  of two different ones;
- CIDEr is CIDEr-D (Vedantam et al., arXiv 1411.5726, section 7): n-grams of one to four, clipped, with a Gaussian
  penalty on the difference in length (sigma 6; bigrams are counted), times ten. Document frequencies are those of the
  references at hand, so the figure depends on which images are judged together.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[str]
Gram = tuple[str, ...]
Array = NDArray[np.float64]
LONGEST = 4  # n-grams
BETA, SIGMA, SCALE = 1.2, 6.0, 10.0
SMALL, TINY = 1e-9, 1e-15  # pycocoevalcap's, against divisions by 0


def bleu_counts(given: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> Array:
    """What each image adds to a BLEU: (N, 10), right and all n-grams of 1 to 4, length and reference length."""
    rows = []
    for said, known in zip(given, references, strict=True):
        best: Counter[Gram] = Counter()
        for reference in known:
            best |= Counter(_grams(reference))
        right = [0] * LONGEST
        for gram, count in Counter(_grams(said)).items():
            right[len(gram) - 1] += min(count, best[gram])
        every = [max(0, len(said) - n) for n in range(LONGEST)]
        nearest = min((abs(len(reference) - len(said)), len(reference)) for reference in known)[1]
        rows.append([*right, *every, len(said), nearest])
    return np.asarray(rows, float)


def bleu(sums: Array) -> Array:
    """BLEU-1 to 4 of summed counts: (R, 10) to (R, 4)."""
    right, every = sums[:, :LONGEST], sums[:, LONGEST : 2 * LONGEST]
    precisions = np.cumprod((right + TINY) / (every + SMALL), axis=1)
    ratio = (sums[:, -2] + TINY) / (sums[:, -1] + SMALL)
    brevity = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return precisions ** (1 / np.arange(1, LONGEST + 1)) * brevity[:, None]


def rouge_l(given: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """ROUGE-L of each image."""
    marks = []
    for said, known in zip(given, references, strict=True):
        shared = [_longest_common(said, reference) for reference in known]
        precision = max(shared) / max(1, len(said))
        recall = max(common / max(1, len(reference)) for common, reference in zip(shared, known, strict=True))
        weighted = recall + BETA**2 * precision
        marks.append((1 + BETA**2) * precision * recall / weighted if weighted else 0.0)
    return marks


def cider_d(given: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> list[float]:
    """CIDEr-D of each image; its mean is the corpus' figure."""
    seen_in: Counter[Gram] = Counter()
    for known in references:
        seen_in.update({gram for reference in known for gram in _grams(reference)})
    images = math.log(len(references))
    rarity: dict[Gram, float] = defaultdict(lambda: images, {gram: images - math.log(n) for gram, n in seen_in.items()})
    marks = []
    for said, known in zip(given, references, strict=True):
        own = _weighed(said, rarity)
        likeness = [_likeness(own, _weighed(reference, rarity)) for reference in known]
        marks.append(SCALE * sum(likeness) / len(likeness))
    return marks


# Of one caption: the weight of each n-gram, the norms of those of each length, and the number of bigrams.
_Weighed = tuple[dict[Gram, float], list[float], int]


def _weighed(tokens: Tokens, rarity: dict[Gram, float]) -> _Weighed:
    weights = {gram: count * rarity[gram] for gram, count in Counter(_grams(tokens)).items()}
    squares = [0.0] * LONGEST
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight**2
    return weights, [math.sqrt(square) for square in squares], max(0, len(tokens) - 1)


def _likeness(said: _Weighed, known: _Weighed) -> float:
    products = [0.0] * LONGEST
    for gram, weight in said[0].items():
        other = known[0].get(gram, 0.0)
        products[len(gram) - 1] += min(weight, other) * other
    cosines = [
        product / (here * there) if here and there else 0.0
        for product, here, there in zip(products, said[1], known[1], strict=True)
    ]
    return sum(cosines) / LONGEST * math.exp(-((said[2] - known[2]) ** 2) / (2 * SIGMA**2))


def _grams(tokens: Tokens) -> Iterable[Gram]:
    return (tuple(tokens[start : start + n]) for n in range(1, LONGEST + 1) for start in range(len(tokens) - n + 1))


def _longest_common(a: Tokens, b: Tokens) -> int:
    """The length of the longest common subsequence."""
    best = [0] * (len(b) + 1)
    for token in a:
        before = 0
        for place, other in enumerate(b, start=1):
            before, best[place] = best[place], before + 1 if token == other else max(best[place], best[place - 1])
    return best[-1]
