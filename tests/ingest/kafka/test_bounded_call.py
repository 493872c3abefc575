"""Calls within a time; with a real broker that is gone: the contracts of group sources and readers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from trustwatch.ingest.kafka.confluent.client_connection import BoundedCall


@pytest.fixture
def released() -> Iterator[threading.Event]:
    """Ends a close that would not end by itself; set after the test."""
    event = threading.Event()
    yield event
    event.set()


def test_callbacks_run_on_the_thread_that_waits_and_their_time_does_not_count() -> None:
    """Work in hand is committed there, however long that takes."""
    ran: list[threading.Thread] = []

    def hand_back() -> None:
        time.sleep(0.3)
        ran.append(threading.current_thread())

    closing = BoundedCall(lambda: [closing.call_back(hand_back) for _ in range(2)])
    assert closing.run(0.2)
    assert ran == [threading.current_thread()] * 2


def test_one_that_takes_too_long_is_left_and_calls_nobody_any_more(released: threading.Event) -> None:
    """Its thread stays; the owner of the partitions may be gone by then."""
    ran: list[str] = []
    ended = threading.Event()

    def close() -> None:
        released.wait(30)
        closing.call_back(lambda: ran.append("late"))
        ended.set()

    closing = BoundedCall(close)
    began = time.monotonic()
    assert not closing.run(0.2)
    assert time.monotonic() - began < 5.0
    released.set()
    assert ended.wait(10)
    assert closing.wait(10)
    assert ran == []
