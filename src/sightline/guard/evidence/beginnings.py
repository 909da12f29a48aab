"""Where answers begin: the tokens after which a loss begins to teach, and those after which a model is to write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

ROWS = 32  # of training, and MANY prompts: fewer may agree by chance
MANY = 8


@dataclass(frozen=True, slots=True)
class TaughtFromSeen:
    """Training rows with a masked prompt: from where on they are taught.

    Attributes:
        before: the tokens after which the first taught token comes, and `earlier` the tokens before these; one id each,
            with how many of the `rows` have it.
    """

    step: int
    rows: int
    before: tuple[tuple[int, int], ...]
    earlier: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PromptsSeen:
    """Prompts from which a model wrote on. `ends`: the id of each one's last token, with how many have it."""

    step: int
    ends: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Misplaced:
    """What is wrong with the place where labels begin, in words."""

    message: str
    fix: str
    seen: Mapping[str, object]
    proved: bool = True


def never_first(
    begun: TaughtFromSeen | None, prompts: PromptsSeen | None, text: Callable[[list[int]], str]
) -> Misplaced | None:
    """Where all prompts end in one token, teaching begins one token later in every row.

    What stands between is no part of a template: it differs from row to row, as first words of answers do.
    """
    if begun is None or prompts is None or begun.rows < ROWS or len(prompts.ends) != 1 or len(begun.earlier) != 1:
        return None
    (end, count), (earlier, _) = prompts.ends[0], begun.earlier[0]
    differ = len(begun.before) > 1 and all(before != end for before, _ in begun.before)
    if count < MANY or not differ or earlier != end:
        return None
    return Misplaced(
        f"the first token of no answer is taught: labels begin one token later than prompts end ({text([end])!r})",
        "begin the labels right after the prompt: what masks it is one token too long",
        {"prompts end in": text([end])},
        proved=False,
    )
