"""Notices what tokenizers of `transformers` give a script: prompts are measured by them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

from sightline.attach.hook import Hook
from sightline.attach.tokenized import TOKENIZED

METHODS = ("__call__", "encode")


class Tokenizers:
    """Tells `TOKENIZED`. `fault`: told of errors of our own."""

    def __init__(self, fault: Callable[[str], None]) -> None:
        self._gave = Hook(TOKENIZED.gave, lambda error: fault(f"tokenizer: {type(error).__name__}: {error}"))

    def on_import(self) -> Mapping[str, Callable[[], None]]:
        """Module -> what to do once it is there."""
        return {"transformers.tokenization_utils_base": self._wrap}

    def _wrap(self) -> None:
        kind: Any = sys.modules["transformers.tokenization_utils_base"].PreTrainedTokenizerBase
        for name in METHODS:
            setattr(kind, name, self._heard(getattr(kind, name)))

    def _heard(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def called(*args: Any, **kwargs: Any) -> Any:
            given = method(*args, **kwargs)
            self._gave(given)
            return given

        return called
