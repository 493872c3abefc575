"""Calls of a consumer of librdkafka within a time, where they have none of their own: commits that wait, and `close`.

While no broker answers, librdkafka keeps a commit as long as a session of the group lasts, 45 seconds by default and
half an hour at most, and where brokers accept connections but are silent, for ever. `close` waits for all commits.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

CLOSE_S = 5.0
"""Longest time for leaving a group and ending connections."""

_LOOK_S = 0.1


class BoundedCall:
    """A call on a thread of its own; rebalance callbacks that it causes run on the thread that waits for it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._work = work
        self._callbacks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        """To be run; None = the call has ended."""
        self._ended = threading.Event()
        self._given_up = False
        self._error: Exception | None = None

    def run(self, within_s: float) -> bool:
        """Make the call; the time that callbacks take does not count.

        Raises whatever the call raises.
        """
        threading.Thread(target=self._run, name="kafka-bounded", daemon=True).start()
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                callback = self._callbacks.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                self._given_up = True
                return False
            if callback is None:
                break
            began_s = time.monotonic()
            callback()
            deadline_s += time.monotonic() - began_s
        if self._error is not None:
            raise self._error
        return True

    def _run(self) -> None:
        try:
            self._work()
        except Exception as error:  # raised again in the thread that waits
            self._error = error
        finally:
            self._ended.set()
            self._callbacks.put(None)

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the end of a call that `run` gave up (None = for ever); False = it has not ended yet."""
        return self._ended.wait(timeout_s)

    def call_back(self, work: Callable[[], None]) -> None:
        """Run a callback of the consumer on the thread that waits; returns when it has, or nobody waits any more."""
        done = threading.Event()

        def callback() -> None:
            try:
                work()
            finally:
                done.set()

        self._callbacks.put(callback)
        while not done.wait(_LOOK_S) and not self._given_up:
            pass
