"""Notices what tokenizers of `transformers` give a script: prompts are measured by them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

from sightline.attach.hook import Hook
from sightline.attach.script.main import installed
from sightline.attach.templates import TEMPLATES
from sightline.attach.tokenized import TOKENIZED

METHODS = ("__call__", "encode")


class Tokenizers:
    """Tells `TOKENIZED`. `fault`: told of errors of our own."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        hook = functools.partial(Hook, fault=lambda error: fault(f"tokenizer: {type(error).__name__}: {error}"))
        self._gave, self._applied = hook(TOKENIZED.gave), hook(TEMPLATES.applied)

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {
            "transformers.tokenization_utils_base": self._wrap,
            "transformers.processing_utils": self._wrap_processors,
        }

    def _wrap(self) -> None:
        kind: Any = sys.modules["transformers.tokenization_utils_base"].PreTrainedTokenizerBase
        for name in METHODS:
            setattr(kind, name, self._heard(getattr(kind, name)))
        kind.apply_chat_template = self._templated(kind.apply_chat_template)

    def _wrap_processors(self) -> None:
        """Those of images and texts apply a template of their own."""
        kind: Any = sys.modules["transformers.processing_utils"].ProcessorMixin
        kind.apply_chat_template = self._templated(kind.apply_chat_template)

    def _heard(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            given = method(*args, **kwargs)
            self._gave(given)
            return given

        return called

    def _templated(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def apply_chat_template(tokenizer: Any, conversation: Any, *args: Any, **kwargs: Any) -> Any:
            if not installed(sys._getframe(1).f_code.co_filename):  # no trainer's own call
                self._applied(tokenizer, conversation, method)
            return method(tokenizer, conversation, *args, **kwargs)

        return apply_chat_template
