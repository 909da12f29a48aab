"""A chat template of `data/templates.py` as Jinja, so that an exported model writes conversations as it learned to."""

from __future__ import annotations

import json

from sightline.data.row import Role
from sightline.data.templates import Template

# One line without blanks between tags: Jinja keeps every character outside them.
BODY = (
    "{{% for m in said %}}{{% set parts = [{{'type': 'text', 'text': m['content']}}] if m['content'] is string"
    " else m['content'] %}}{{% set now = namespace(first=true, after=false, text='', any=false) %}}"
    "{{% for p in parts %}}{{% if p['type'] == 'image' %}}"
    "{{% if now.first and m['role'] != 'system' %}}{{% set now.text = now.text + {lead} %}}{{% endif %}}"
    "{{% set now.text = now.text + {image} %}}{{% set now.after = true %}}{{% set now.first = false %}}"
    "{{% set now.any = true %}}{{% elif m['role'] != 'user' or {user_text} %}}"
    "{{% set t = p['text'].lstrip() if now.first or now.after else p['text'] %}}"
    "{{% set t = t.rstrip() if loop.last else t %}}{{% if t %}}"
    "{{% set before = {after_image} if now.after else ({lead} if now.first and m['role'] != 'system' else '') %}}"
    "{{% set now.text = now.text + before + t %}}{{% set now.after = false %}}{{% set now.first = false %}}"
    "{{% set now.any = true %}}{{% endif %}}{{% endif %}}{{% endfor %}}"
    "{{% if now.any or m['role'] == 'assistant' %}}{{{{ marks[m['role']][0] + now.text }}}}"
    "{{% if m['role'] == 'assistant' %}}{{{{ {end} }}}}{{% endif %}}"
    "{{% if m['role'] != 'assistant' or add_generation_prompt or not loop.last %}}{{{{ marks[m['role']][1] }}}}"
    "{{% endif %}}{{% endif %}}"
    "{{% endfor %}}{{% if add_generation_prompt %}}{{{{ marks['assistant'][0] }}}}{{% endif %}}"
)


def jinja(template: Template, *, image_token: str, end: str) -> str:
    """The Jinja text that renders messages as `templates.render` does; `end` is the end token's text."""
    marks: dict[Role, tuple[str, str]] = {
        "system": template.system_marks,
        "user": template.user_marks,
        "assistant": template.assistant_marks,
    }
    words = {
        "lead": template.lead,
        "after_image": template.after_image,
        "image": image_token,
        "end": end,
    }
    system = json.dumps([{"role": "system", "content": template.system}] if template.system else [])
    opening = (
        f"{{% set marks = {json.dumps(marks)} %}}"
        "{% set said = messages if messages and messages[0]['role'] == 'system' else "
        f"{system} + messages %}}"
    )
    quoted = {name: json.dumps(word) for name, word in words.items()}
    return opening + BODY.format(**quoted, user_text="true" if template.user_text else "false")
