"""A model may refuse what a probe asks: it checks its inputs, and ours are not quite the host's."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import CodeType, TracebackType
from typing import ParamSpec, TypeVar

from torch import nn

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")
CALLED: CodeType = nn.Module._call_impl.__code__


def refusable(probe: Callable[Asked, Answer | None]) -> Callable[Asked, Answer | None]:
    """`probe`, which answers None where the model it runs raises: the check it is for cannot tell, the others go on.

    Errors of the probe itself, outside of any module's call, are raised as ever.
    """

    @functools.wraps(probe)
    def ask(*args: Asked.args, **kwargs: Asked.kwargs) -> Answer | None:
        try:
            return probe(*args, **kwargs)
        except Exception as error:
            if not _of_a_module(error.__traceback__):
                raise
            return None

    return ask


def _of_a_module(trace: TracebackType | None) -> bool:
    while trace is not None:
        if trace.tb_frame.f_code is CALLED:
            return True
        trace = trace.tb_next
    return False
