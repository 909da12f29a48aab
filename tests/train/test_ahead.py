"""ahead: the same items in the same order, errors in their place, no thread left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from sightline.train.ahead import ahead


def threads() -> int:
    return sum(thread.name.startswith("reading ahead") for thread in threading.enumerate())


def test_items_come_in_order_and_no_more_than_asked_are_taken() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    reading = ahead(items(), 3)
    time.sleep(0.02)
    assert not taken and threads() == 0  # nothing starts before it is asked for
    assert next(reading) == 0
    time.sleep(0.05)
    assert len(taken) == 4
    assert list(reading) == list(range(1, 50))


def test_errors_come_where_they_belong() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    reading = ahead(items(), 3)
    assert next(reading) == 1
    with pytest.raises(ValueError, match="broken"):
        next(reading)


def test_a_reader_that_goes_leaves_no_thread() -> None:
    reading = ahead(iter(range(50)), 2)
    next(reading)
    assert threads() == 1
    reading.close()  # type: ignore[attr-defined]
    time.sleep(0.05)
    assert threads() == 0
