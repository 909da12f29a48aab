"""ahead: an iterator that is read in a thread of its own, a little before it is asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
END: Any = object()


def ahead(items: Iterator[T], most: int) -> Iterator[T]:
    """`items` in their order, up to `most` of them taken beforehand. What they raise is raised in its place.

    The thread starts with the first item that is asked for, so that processes forked before have none.
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="reading ahead")
    try:
        waiting = deque(reader.submit(next, items, END) for _ in range(most))
        while (item := waiting.popleft().result()) is not END:
            waiting.append(reader.submit(next, items, END))
            yield item
    finally:
        reader.shutdown(wait=False, cancel_futures=True)
