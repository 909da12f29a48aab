"""Where the answers stand in a conversation that a chat template has written out.

With ``{% generation %}`` the template itself tells. Without, the conversation is written out turn by turn: an answer
begins where the prompt for it ends.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Message = dict[str, Any]  # {"role": ..., "content": [{"type": "text", "text": ...} or {"type": "image"}]}
Render = Callable[[list[Message], bool], str]  # messages, and whether the opening of an answer follows

GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


def answer_spans(render: Render, messages: list[Message], end: str, template: str = "") -> tuple[str, list[range]]:
    """The conversation as text, and the characters of each answer, up to the end of its own words.

    Args:
        end: written after each answer, for a template that writes no end token itself.
        template: the template's source, looked at for ``{% generation %}``.

    Raises:
        ValueError: the template rewrites earlier turns as the conversation grows, or changes an answer's words.
    """
    ended = with_ends(messages, end)
    text = render(ended, False)
    told = _generation_starts(ended, template) if GENERATION.search(template) else None
    answers = [number for number, message in enumerate(messages) if message["role"] == "assistant"]
    spans = []
    for order, number in enumerate(answers):
        start = told[order] if told else _prompt_end(render, ended, number, text)
        words = said(messages[number])
        at = text.find(words, start)
        if at < 0:
            raise ValueError(f"the chat template changes the words of turn {number + 1}")
        spans.append(range(start, at + len(words)))
    return text, spans


def said(message: Message) -> str:
    """The message's text without its pictures."""
    return "".join(part["text"] for part in message["content"] if part["type"] == "text").strip()


def with_ends(messages: list[Message], end: str) -> list[Message]:
    """`messages` with `end` written after each answer."""
    return [
        {"role": "assistant", "content": [{"type": "text", "text": said(message) + end}]}
        if end and message["role"] == "assistant"
        else message
        for message in messages
    ]


def _prompt_end(render: Render, messages: list[Message], number: int, text: str) -> int:
    prompt = render(messages[:number], True)
    if text.startswith(prompt):
        return len(prompt)
    # Some templates open an answer to be generated otherwise than one already given (a space, a line break).
    stem = prompt.rstrip()
    if not text.startswith(stem):
        raise ValueError(f"the chat template rewrites earlier turns, so the answer of turn {number + 1} is not found")
    return len(stem)


def _generation_starts(messages: list[Message], template: str) -> list[int] | None:
    """Where the template's generation blocks begin; None where it marks not every answer."""
    from transformers.utils.chat_template_utils import render_jinja_template

    _, blocks = render_jinja_template([messages], chat_template=template, return_assistant_tokens_mask=True)
    starts = [int(start) for start, _ in blocks[0]]
    answers = sum(message["role"] == "assistant" for message in messages)
    return starts if len(starts) == answers else None
