"""Closing a consumer of librdkafka within a time: its own `close` has none.

It waits for positions that were committed in the background. While no broker answers, librdkafka keeps each of them as
long as a session of the group lasts: 45 seconds by default, half an hour at most.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

_LOOK_S = 0.1


class BoundedClose:
    """Closes a consumer on a thread of its own, and runs its rebalance callbacks on the thread that waits for it.

    Args:
        close: of the consumer. While it runs, each callback goes through `call_back`.
    """

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        """Callbacks to run; None = the consumer is closed."""
        self._given_up = False
        self._error: Exception | None = None

    def run(self, within_s: float) -> bool:
        """Close; the time that callbacks take does not count.

        Returns:
            False where *within_s* seconds were not enough: then the thread stays, and runs no callback any more.

        Raises whatever `close` raises.
        """
        threading.Thread(target=self._run, name="kafka-close", daemon=True).start()
        deadline_s = time.monotonic() + within_s
        while True:
            try:
                call = self._calls.get(timeout=max(0.0, deadline_s - time.monotonic()))
            except queue.Empty:
                self._given_up = True
                return False
            if call is None:
                break
            called_s = time.monotonic()
            call()
            deadline_s += time.monotonic() - called_s
        if self._error is not None:
            raise self._error
        return True

    def _run(self) -> None:
        try:
            self._close()
        except Exception as error:  # raised again in the thread that waits
            self._error = error
        finally:
            self._calls.put(None)

    def call_back(self, work: Callable[[], None]) -> None:
        """Run a callback of the consumer on the thread that waits; returns when it has, or nobody waits any more."""
        done = threading.Event()

        def call() -> None:
            try:
                work()
            finally:
                done.set()

        self._calls.put(call)
        while not done.wait(_LOOK_S) and not self._given_up:
            pass
