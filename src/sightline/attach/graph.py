"""Walks back through the graph of a gradient, from a loss to the leaves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any


def nodes(roots: Iterable[Any], *, most: int, stop: Callable[[Any], bool] | None = None) -> Iterator[Any]:
    """`roots`, those that are none aside, and the nodes behind them: each once, the nearest first.

    What lies behind a node that `stop`s is left out. At last None, where there are more than `most` of them.
    """
    seen = {root for root in roots if root is not None}
    open_ = deque(root for root in roots if root is not None)
    while open_:
        node = open_.popleft()
        yield node
        if stop is not None and stop(node):
            continue
        for behind, _ in node.next_functions:
            if behind is None or behind in seen:
                continue
            if len(seen) >= most:
                yield None
                return
            seen.add(behind)
            open_.append(behind)


def is_log_softmax(node: Any) -> bool:
    """Whether it is that of torch's log-softmax, which its cross-entropy takes as well."""
    return type(node).__name__ == "LogSoftmaxBackward0"


def signed(dim: int) -> int:
    """A dimension, which a node keeps as an unsigned number."""
    return dim - (1 << 64) if dim >= 1 << 63 else dim
