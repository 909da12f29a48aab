"""Where the tokens of a text stand once a processor has put its images into it.

A processor replaces each image placeholder by many tokens, some of them text (line breaks between tiles, begin and end
marks), and no two processors do it alike. What stands between the images is tokenised as it would be without them. So
the text is cut at its placeholders, and each piece is looked for, in order, in what the processor made.
"""

from __future__ import annotations

from collections.abc import Sequence

EDGE = 4  # tokens at a piece's edge that may have merged with the image marks beside it, e.g. line breaks


def positions(text: Sequence[int], placeholder: int, expanded: Sequence[int], image: int) -> list[int | None]:
    """For each token of `text` its index in `expanded`; None for placeholders and for tokens merged into image marks.

    Args:
        text: tokens with one `placeholder` for each image. Where it has none, images may stand before all of it.
        expanded: the processor's tokens, which hold `image` tokens.

    Raises:
        ValueError: the pieces are not found in order from the first token to the last.
    """
    found: list[int | None] = [None] * len(text)
    pieces = _pieces(text, placeholder)
    cursor = 0
    for number, (start, piece) in enumerate(pieces):
        last = number == len(pieces) - 1
        after_image = number > 0 or (len(pieces) == 1 and image in expanded)
        place = _find(piece, expanded, cursor, image if after_image else None, last)
        if place is None:
            raise ValueError(f"text tokens {start} to {start + len(piece)} are not among the processor's tokens")
        at, skipped, length = place
        for offset in range(length):
            found[start + skipped + offset] = at + offset
        cursor = at + length
    return found


def _pieces(text: Sequence[int], placeholder: int) -> list[tuple[int, Sequence[int]]]:
    """(start, tokens) between placeholders; neighbouring placeholders count as one."""
    pieces, start = [], 0
    for index, token in enumerate([*text, placeholder]):
        if token == placeholder:
            if index > start or index in (0, len(text)):
                pieces.append((start, text[start:index]))
            start = index + 1
    return pieces


def _find(
    piece: Sequence[int], expanded: Sequence[int], cursor: int, image: int | None, last: bool
) -> tuple[int, int, int] | None:
    """(index in `expanded`, tokens skipped at the piece's head, tokens matched), the fewest tokens left out first."""
    heads = range(min(EDGE, len(piece)) + 1) if image is not None else range(1)
    tails = range(1) if last else range(min(EDGE, len(piece)) + 1)
    for head, tail in sorted(((h, t) for h in heads for t in tails), key=sum):
        core = list(piece[head : len(piece) - tail])
        if len(core) < 1 <= len(piece):
            continue
        starts = _starts(len(core), expanded, cursor, image, last)
        for at in starts:
            if list(expanded[at : at + len(core)]) == core:
                return at, head, len(core)
    return None


def _starts(length: int, expanded: Sequence[int], cursor: int, image: int | None, last: bool) -> Sequence[int]:
    """Where a piece of `length` tokens may begin: at `cursor`, or anywhere after the next image token."""
    final = len(expanded) - length
    if image is None:
        return [cursor] if not last or cursor == final else []
    first = next((i + 1 for i in range(cursor, len(expanded)) if expanded[i] == image), None)
    if first is None or final < first:
        return []
    return [final] if last else range(first, final + 1)
