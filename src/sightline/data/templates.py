"""Chat templates of composed models, as values: how turns and pictures become text around a language model.

A template renders a conversation into segments. Four kinds: `markup` is the template's own text and may hold special
tokens; `content` is the row's text and never does (a user who writes "</s>" has written four characters); `image` is
a picture's place; `end` is the end token. Content of assistant turns and their end tokens are supervised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sightline.data.row import Role, Turn
from sightline.errors import UserError, nearest

Kind = Literal["markup", "content", "image", "end"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a rendered conversation. `role` is that of the turn it belongs to."""

    kind: Kind
    role: Role
    text: str = ""

    @property
    def supervised(self) -> bool:
        """True for what the model should learn to say."""
        return self.role == "assistant" and self.kind in ("content", "end")


@dataclass(frozen=True, slots=True)
class Template:
    """A chat format.

    `system` is said where a row has no system turn. `lead` is the space between a turn's opening and its first text;
    `after_image` stands between a picture and the text after it. `end` is the end token (None: the tokenizer's EOS).
    With `user_text` False only the pictures of user turns are kept.
    """

    summary: str
    system: str = ""
    system_marks: tuple[str, str] = ("", "")
    user_marks: tuple[str, str] = ("", "")
    assistant_marks: tuple[str, str] = ("", "")
    lead: str = ""
    after_image: str = ""
    end: str | None = None
    user_text: bool = True


TEMPLATES: dict[str, Template] = {
    "vicuna": Template(
        # The v1 conversation of LLaVA-1.5: llava/conversation.py (conv_vicuna_v1) in haotian-liu/LLaVA.
        summary="LLaVA-1.5 and Vicuna v1: a system sentence, USER: and ASSISTANT:",
        system="A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions.",
        system_marks=("", " "),
        user_marks=("USER:", " "),
        assistant_marks=("ASSISTANT:", ""),
        lead=" ",
        after_image="\n",
    ),
    "plain": Template(
        # LLaVA's stage 1 drops the instruction as well, and ends the caption with a newline. Here it ends with the end
        # token, so that the stage's model can already be asked for a caption.
        summary="LLaVA stage 1: the image, then its caption; what the user said is left out",
        user_text=False,
    ),
    "chatml": Template(
        summary="ChatML (Qwen, SmolLM2): <|im_start|>role ... <|im_end|>",
        system_marks=("<|im_start|>system\n", "<|im_end|>\n"),
        user_marks=("<|im_start|>user\n", "<|im_end|>\n"),
        assistant_marks=("<|im_start|>assistant\n", "\n"),
        end="<|im_end|>",
    ),
    "qa": Template(
        # The newline parts question and answer for subword tokenizers; a word-level one spends no token on it.
        summary="short questions and answers: the question, a newline, the answer",
        user_marks=("", "\n"),
    ),
    "story": Template(
        summary="a plain language model: image and text run on as one text, no roles",
        user_marks=("", ""),
        lead=" ",
    ),
}


def named(name: str) -> Template:
    """The template called `name`. Raises UserError with the nearest name where there is none."""
    if name not in TEMPLATES:
        raise UserError(
            f"no chat template is called '{name}'", where="model.compose.template", fix=nearest(name, TEMPLATES)
        )
    return TEMPLATES[name]


def render(template: Template, turns: tuple[Turn, ...], *, prompt: bool = False) -> list[Segment]:
    """The conversation as segments; with `prompt`, then the opening of an answer. Text is stripped at turn edges."""
    segments: list[Segment] = []
    if template.system and (not turns or turns[0].role != "system"):
        turns = (Turn("system", (template.system,)), *turns)
    for turn in turns:
        opening, closing = _marks(template, turn.role)
        body = list(_body(template, turn))
        if not body and turn.role != "assistant":
            continue
        if body and body[0].kind == "image" and turn.role != "system":
            opening += template.lead  # before a picture the space is markup, before text it belongs to the first word
        segments += [Segment("markup", turn.role, opening), *body]
        if turn.role == "assistant":
            segments.append(Segment("end", "assistant"))
        segments.append(Segment("markup", turn.role, closing))
    if prompt:
        segments.append(Segment("markup", "assistant", template.assistant_marks[0]))
    elif turns and turns[-1].role == "assistant":
        segments.pop()  # what closes the last answer comes after its end token and teaches nothing
    return _joined(segments)


def _joined(segments: list[Segment]) -> list[Segment]:
    """Neighbouring markup as one segment, so that " " and "USER:" are tokenised as the one text that they are."""
    joined: list[Segment] = []
    for segment in segments:
        if segment.kind == "markup" and joined and joined[-1].kind == "markup":
            joined[-1] = Segment("markup", segment.role, joined[-1].text + segment.text)
        elif segment.text or segment.kind in ("image", "end"):
            joined.append(segment)
    return joined


def _marks(template: Template, role: Role) -> tuple[str, str]:
    return {
        "system": template.system_marks,
        "user": template.user_marks,
        "assistant": template.assistant_marks,
    }[role]


def _body(template: Template, turn: Turn) -> Iterator[Segment]:
    """The turn's own text and pictures."""
    after_image, first = False, True
    for index, part in enumerate(turn.parts):
        if not isinstance(part, str):
            yield Segment("image", turn.role)
            after_image, first = True, False
            continue
        if turn.role == "user" and not template.user_text:
            continue
        text = part.lstrip() if first or after_image else part
        text = text.rstrip() if index == len(turn.parts) - 1 else text
        if not text:
            continue
        lead = template.after_image if after_image else template.lead if first and turn.role != "system" else ""
        yield Segment("content", turn.role, lead + text)
        after_image = first = False
