"""Items made ahead are the items, in order, and the thread that makes them ends with its reader."""

from __future__ import annotations

import threading
import time

import pytest

from florence2.training.prefetch import made_ahead


def test_all_items_come_in_their_order():
    assert list(made_ahead(iter(range(100)), 3)) == list(range(100))
    assert list(made_ahead(iter(()), 3)) == []


def test_an_error_comes_at_its_place():
    def items():
        yield 1
        raise KeyError("second")

    ahead = made_ahead(items(), 4)
    assert next(ahead) == 1
    with pytest.raises(KeyError, match="second"):
        next(ahead)


def test_no_more_are_made_ahead_than_asked_for():
    made = []

    def items():
        for number in range(100):
            made.append(number)
            yield number

    ahead = made_ahead(items(), 4)
    assert next(ahead) == 0
    deadline = time.monotonic() + 10
    while len(made) < 5 and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.05)  # for a sixth, which is not to come
    assert made == [0, 1, 2, 3, 4]
    ahead.close()


def test_closing_ends_the_thread_in_the_middle():
    before = threading.active_count()
    ahead = made_ahead(iter(range(10**9)), 2)
    assert next(ahead) == 0 and threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before
