"""Chat templates that a script applied itself, what they put around each turn, and ahead of whose turns.

Without anybody who tells, nothing is known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import Any

from sightline.guard.evidence.conversations import one_sided

CALLS = 4  # of one template that are read: turns are told apart in all of them alike
READ, SEVERAL = 16, 3  # calls of which the text is read, and conversations in it in which nobody asks
SHORTEST = 3  # characters of a mark: shorter ones are in texts by chance
WORDS = ("zqaz", "zqbz", "zqcz", "zqdz")  # no text has them: what two who speak by turns say
Heads = tuple[str, str]  # what stands ahead of a user's turn, and of an answer, without blanks


class Templates:
    """Template -> what it puts around turns."""

    def __init__(self) -> None:
        self._marks: dict[str, set[str]] = {}
        self._calls: dict[str, int] = {}
        self._heads: dict[str, Heads] = {}
        self._one_sided: dict[str, list[bool]] = {}

    def applied(self, tokenizer: Any, talk: Any, apply: Callable[..., Any]) -> None:
        """A script applied its tokenizer's template to a conversation. `apply`: the method, to write it as text."""
        template = getattr(tokenizer, "chat_template", None)
        one = talk[0] if isinstance(talk, list | tuple) and talk and isinstance(talk[0], list) else talk
        if not isinstance(template, str) or not isinstance(one, list):
            return
        count = self._calls[template] = self._calls.get(template, 0) + 1
        if count <= READ and len(one) > 1:
            with suppress(Exception):  # without what else the script gives it, a template may refuse
                self._heard(template, one, apply(tokenizer, one, tokenize=False))
        if count > CALLS:
            return
        if template not in self._heads and (heads := _heads(tokenizer, one, apply)) is not None:
            self._heads[template] = heads
        said = [content.strip() if isinstance(content, str) else "" for content in map(_content, one)]
        if not said or not all(said):
            return
        text = apply(tokenizer, one, tokenize=False)
        asked = text
        with suppress(Exception):  # a template may refuse to ask behind an answer
            asked = apply(tokenizer, one, tokenize=False, add_generation_prompt=True)
        text += "\0" + asked[len(text) :] if asked.startswith(text) else ""
        for content in sorted(said, key=len, reverse=True):
            text = text.replace(content, "\0")
        for mark in _ends(tokenizer):
            text = text.replace(mark, "\0")
        found = {piece.strip() for piece in text.split("\0")}
        self._marks.setdefault(template, set()).update(piece for piece in found if len(piece) >= SHORTEST)

    def _heard(self, template: str, talk: list[Any], text: Any) -> None:
        """Are the words of those who ask in what the template made of a conversation?"""
        alone = one_sided({"messages": talk}, text) if isinstance(text, str) else None
        if alone is not None:
            self._one_sided.setdefault(template, []).append(alone)

    def passed_by(self, tokenizer: Any) -> bool:
        """Whether its template left out all that is asked, in each of several conversations that it wrote."""
        heard = self._one_sided.get(self._known(tokenizer) or "", [])
        return len(heard) >= SEVERAL and all(heard)

    def _known(self, tokenizer: Any) -> str | None:
        """The template of a tokenizer; of one that is unknown, the only one there was."""
        own = [getattr(one, "chat_template", None) for one in (tokenizer, getattr(tokenizer, "tokenizer", None))]
        found = [one for one in own if isinstance(one, str) and one in self._calls]
        return found[0] if found else next(iter(self._calls)) if len(self._calls) == 1 else None

    def of(self, tokenizer: Any) -> tuple[str, ...]:
        """What the script's own use of a tokenizer's template puts around turns; () where it never used it.

        As the tokenizer writes it once it has read it: words that it does not know are other ones then.
        """
        return tuple(_again(tokenizer, one) for one in sorted(self._marks.get(_template(tokenizer), ())))

    def heads(self, tokenizer: Any) -> Heads | None:
        """What its template puts ahead of turns; of one that is unknown, that of the only template there was."""
        return self._heads.get(self._known(tokenizer) or "")


def _template(tokenizer: Any) -> str:
    return getattr(tokenizer, "chat_template", None) or ""


def _again(tokenizer: Any, text: str) -> str:
    with suppress(Exception):
        return str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"])).strip() or text
    return text


def _content(turn: Any) -> Any:
    return turn.get("content") if isinstance(turn, Mapping) else None


def _heads(tokenizer: Any, talk: Sequence[Any], apply: Callable[..., Any]) -> Heads | None:
    """Read off a conversation of other words, of the same form."""
    parts = any(isinstance(_content(turn), list) for turn in talk)
    roles = ("user", "assistant") * (len(WORDS) // 2)
    said = [[{"type": "text", "text": word}] if parts else word for word in WORDS]
    text: Any = ""
    with suppress(Exception):  # a template refuses what it does not know
        text = apply(tokenizer, [{"role": r, "content": c} for r, c in zip(roles, said, strict=True)], tokenize=False)
    if not isinstance(text, str):
        return None
    for mark in _ends(tokenizer):
        text = text.replace(mark, "")
    cut = re.split("|".join(WORDS), "".join(text.split()))
    if len(cut) != len(WORDS) + 1:
        return None
    user, answer = (_alike(one[::-1], two[::-1])[::-1] for one, two in ((cut[0], cut[2]), (cut[1], cut[3])))
    answer = answer or _alike(cut[1], cut[3])  # the last answer may begin with a place to think
    return (user, answer) if min(len(user), len(answer)) >= SHORTEST and user not in answer else None


def _alike(one: str, two: str) -> str:
    """What both begin with."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, two, strict=False)))


def _ends(tokenizer: Any) -> list[str]:
    """Marks that a tokenizer or a trainer puts at ends by itself."""
    return [mark for name in ("eos_token", "bos_token", "pad_token") if (mark := getattr(tokenizer, name, None))]


TEMPLATES = Templates()
