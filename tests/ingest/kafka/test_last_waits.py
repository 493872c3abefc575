"""Waits of a writer whose process is to end."""

from __future__ import annotations

import time

from trustwatch.ingest.kafka.shared import LastWaits


def test_waits_last_as_their_callers_say_until_the_process_is_to_end() -> None:
    """Then each has so much from its own beginning: what else a worker has to do does not shorten it."""
    waits, now_s = LastWaits(), time.monotonic()
    assert 29.0 < waits.left_s(now_s, 30.0) <= 30.0
    waits.note_in_vain()
    assert 29.0 < waits.left_s(now_s, 30.0) <= 30.0
    waits.begin(5.0)
    waits.begin(50.0)
    assert 4.0 < waits.left_s(now_s - 20.0, 30.0) <= 5.0  # under way for 20 s
    assert 0.0 < waits.left_s(now_s, 1.0) <= 1.0
    assert 104.0 < waits.left_s(now_s + 100.0, 30.0) <= 105.0  # the next one begins later
    assert not waits.over
    waits.note_in_vain()
    assert (waits.over, waits.left_s(time.monotonic(), 30.0)) == (True, 0.0)
    waits.begin(5.0)
    assert waits.over
