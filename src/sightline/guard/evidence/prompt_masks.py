"""Masks of prompts that stand in the wrong place: they were counted with the padding of their rows, or without images.

A mask that is right ends where the text of the prompt ends, whatever else a row is filled up with.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from sightline.guard.evidence.beginnings import Misplaced

LONGEST = 8  # tokens of a template's end that are compared
WHOLE, MOVED, APART = 4, 16, 3  # rows without padding, and with it; numbers of padding: fewer agree by chance
TEXTS = 8  # texts that came again with other padding
MORE = 4  # placeholders that one of a prompt stands for, at least
ALMOST = 0.95  # of the rows: some are cut off, or have a template of their own
HALF = 0.5


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """A training row whose beginning is not taught.

    Attributes:
        text: its ids without padding.
        begin: the place in `text` of the first token that is taught.
        pads: how many places of padding stand ahead of it; below 0: behind it.
    """

    text: tuple[int, ...]
    begin: int
    pads: int

    @property
    def counted(self) -> int:
        """Where the prompt would end, if padding had been taken for a part of it."""
        return self.begin + self.pads


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """A training row beside which the host had its prompt tokenized alone.

    Attributes:
        text: its ids without padding. taught: of each, whether it is taught.
        prompt: the ids of what was tokenized.
    """

    text: tuple[int, ...]
    taught: tuple[bool, ...]
    prompt: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PromptMasksSeen:
    """Rows of sampled training batches. `measured`: those whose prompts were tokenized otherwise than they stand there,
    with fewer image placeholders. `roles`: what the chat template puts around turns, where the script applied it."""

    step: int
    rows: tuple[MaskedRow, ...]
    measured: tuple[MeasuredRow, ...] = ()
    roles: tuple[str, ...] = ()


def misplaced(seen: PromptMasksSeen | None) -> Misplaced | None:
    """The mask of prompts that stands in the wrong place of rows, if it does."""
    if seen is None:
        return None
    if wrong := sum(map(counts_no_images, seen.measured)):
        telling = len(seen.measured) - sum(map(ends_in_images, seen.measured))
        return _measured(wrong, seen.measured) if wrong >= max(TEXTS, ALMOST * telling) else None
    return _padded([row.pads for row in seen.rows if row.pads]) if counts_padding(seen.rows) else None


def _padded(pads: Sequence[int]) -> Misplaced:
    ahead = pads[0] > 0
    harm = "begin too early, and teach the prompt" if ahead else "begin too late, and leave out what answers begin with"
    return Misplaced(
        f"prompts are masked as if padding were a part of them: in {len(pads)} padded rows labels {harm}",
        "mask each row before it is padded, or from its first token on" + (", behind the padding" if ahead else ""),
        {"padded rows": len(pads), "their padding": (min(map(abs, pads)), max(map(abs, pads)))},
    )


def _measured(wrong: int, rows: Sequence[MeasuredRow]) -> Misplaced:
    row = next(row for row in rows if counts_no_images(row))
    end, _ = prompt_end(row.text, row.prompt) or (0, 0)
    return Misplaced(
        f"prompts are masked as if an image were one token of them: {wrong} of {len(rows)} rows teach their last words",
        "measure the prompt as it stands in the row, with all of its placeholders",
        {"tokens masked": len(row.prompt), "tokens of that prompt": end, "taught": sum(row.taught[:end])},
    )


def prompt_end(text: tuple[int, ...], prompt: tuple[int, ...]) -> tuple[int, int] | None:
    """(where the prompt ends in the text, the token that stands there in longer runs), where both begin alike else.

    None if they do not, or if no token does, or several do.
    """
    place, read, longer = 0, 0, set[int]()
    for token, run in groupby(prompt):
        size = len([*run])
        read += size
        there = next((n for n in range(len(text) - place) if text[place + n] != token), len(text) - place)
        if there < size:
            return None
        if there >= size + MORE and (read < len(prompt) or token in longer):
            longer.add(token)
            size = there
        elif there > size and read < len(prompt):
            return None
        place += size
    return (place, longer.pop()) if len(longer) == 1 and place < len(text) else None


def ends_in_images(row: MeasuredRow) -> bool:
    """Whether a mask as long as the prompt hides nothing but images that the row begins with: that may be meant."""
    size = len(row.prompt)
    same = len(set(row.text[:size])) == 1 and row.text[0] in row.prompt
    return same and not any(row.taught[1:size]) and all(row.taught[size + 1 :])


def counts_no_images(row: MeasuredRow) -> bool:
    """Whether a row is masked for as many tokens as its prompt had without most of its placeholders, and no further.

    A part of the prompt's own words is then masked, and what follows the images is taught: nobody means that. The
    placeholders themselves may be masked as well.
    """
    if (found := prompt_end(row.text, row.prompt)) is None:
        return False
    end, image = found
    ahead, behind, images = list[bool](), list[bool](), list[bool]()  # what is taught of the prompt
    for place in range(1, end):  # nothing predicts the first token
        cut = ahead if place < len(row.prompt) else images if row.text[place] == image else behind
        if row.text[place] != image or cut is images:
            cut.append(row.taught[place])
    return bool(ahead and behind) and not any(ahead) and all(behind) and len(set(images)) < 2


def counts_padding(rows: Sequence[MaskedRow]) -> bool:
    """Whether what is masked from a row's padded start (or left over up to its padded end) is right without padding.

    Told by how the same text is masked in rows with other padding, or by the end of the template, which stands right
    ahead of what is taught in rows without padding, and in the others just as far off as they are padded.
    """
    cut = [row for row in rows if row.pads and row.begin]
    if len({row.pads for row in cut}) < APART or len({row.pads > 0 for row in cut}) > 1:
        return False
    return _by_texts(rows) or _by_template(rows, cut)


def _by_texts(rows: Iterable[MaskedRow]) -> bool:
    """Whether the same text is masked in the same place of its rows, and so in other places of the text."""
    found: defaultdict[tuple[int, ...], set[MaskedRow]] = defaultdict(set)
    for row in rows:
        if row.begin > 0 or not row.pads:
            found[row.text].add(row)
    again = [same for same in found.values() if len({row.pads for row in same}) > 1]
    return len(again) >= TEXTS and all(len({row.counted for row in same}) == 1 for same in again)


def _by_template(rows: Sequence[MaskedRow], cut: Sequence[MaskedRow]) -> bool:
    whole = [row.text[: row.begin] for row in rows if not row.pads and row.begin]
    if len(whole) < WHOLE or len(cut) < MOVED:
        return False
    end = common_end(whole)
    if not end:
        return False
    off = sum(_ends(row.text, row.counted, end) for row in cut)
    right = sum(_ends(row.text, row.begin, end) for row in cut)
    every = [row for row in rows if row.pads > 0 and not row.begin]  # padded by more than the mask is long
    within = sum(any(_ends(row.text, place, end) for place in range(1, row.pads + 1)) for row in every)
    return off >= ALMOST * len(cut) and right <= HALF * len(cut) and within >= ALMOST * len(every)


def common_end(texts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The tokens, at most `LONGEST`, by which all texts end."""
    size = 0
    shortest = min(map(len, texts))
    while size < min(shortest, LONGEST) and len({text[len(text) - size - 1] for text in texts}) == 1:
        size += 1
    return texts[0][len(texts[0]) - size :] if size else ()


def _ends(text: tuple[int, ...], place: int, end: tuple[int, ...]) -> bool:
    """Whether `end` stands right ahead of this place of the text."""
    return len(end) <= place <= len(text) and text[place - len(end) : place] == end
