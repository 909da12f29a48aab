"""The exported Jinja template writes what the encoder's template writes."""

from __future__ import annotations

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from sightline.data.row import Picture, Turn
from sightline.data.templates import TEMPLATES, Template, render
from sightline.models.chat_template import jinja

CHATS = {
    "one question": (Turn("user", (Picture(), " What is it? ")), Turn("assistant", ("A cat.",))),
    "system": (Turn("system", ("Be brief.",)), Turn("user", ("Hello",)), Turn("assistant", ("Hi",))),
    "two turns": (
        Turn("user", ("Look: ", Picture(), Picture(), "\nwhich?")),
        Turn("assistant", ("Both 'of' \"them\".",)),
        Turn("user", ("Why?",)),
        Turn("assistant", ("",)),
    ),
    "image last": (Turn("user", ("What is it?\n", Picture())), Turn("assistant", ("A dog",))),
    "image alone": (Turn("user", (Picture(),)), Turn("assistant", ("A dog",))),
}


def by_encoder(template: Template, turns: tuple[Turn, ...], prompt: bool) -> str:
    words = {"image": "<image>", "end": "</s>"}
    return "".join(words.get(segment.kind, segment.text) for segment in render(template, turns, prompt=prompt))


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_the_same(name: str, chat: str) -> None:
    text = jinja(TEMPLATES[name], image_token="<image>", end="</s>")
    for prompt in (False, True):
        turns = CHATS[chat][:-1] if prompt else CHATS[chat]
        messages = [
            {
                "role": turn.role,
                "content": [
                    {"type": "text", "text": p} if isinstance(p, str) else {"type": "image"} for p in turn.parts
                ],
            }
            for turn in turns
        ]
        (made,), _ = render_jinja_template([messages], chat_template=text, add_generation_prompt=prompt)
        assert made == by_encoder(TEMPLATES[name], turns, prompt)


def test_content_may_be_a_string() -> None:
    text = jinja(TEMPLATES["qa"], image_token="<image>", end="</s>")
    (made,), _ = render_jinja_template(
        [[{"role": "user", "content": "Why?"}]], chat_template=text, add_generation_prompt=True
    )
    assert made == by_encoder(TEMPLATES["qa"], (Turn("user", ("Why?",)),), True)
