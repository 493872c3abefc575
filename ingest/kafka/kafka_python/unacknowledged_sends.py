"""Sends of one kafka-python producer that are neither acknowledged nor failed yet."""

from __future__ import annotations

import time
from collections import deque

from kafka.producer.future import FutureRecordMetadata


class UnacknowledgedSends:
    """Knows the oldest send without an outcome, and whether one failed. Not thread-safe."""

    def __init__(self) -> None:
        self._open: deque[tuple[float, FutureRecordMetadata]] = deque()
        self.failure: BaseException | None = None
        """Reason of the first failure that was seen."""

    def __len__(self) -> int:
        return len(self._open)

    def add(self, sent: FutureRecordMetadata) -> None:
        """Note a send."""
        self._open.append((time.monotonic(), sent))

    def settle(self) -> None:
        """Forget the oldest sends as far as they have an outcome; a failure is kept in `failure`."""
        while self._open and self._open[0][1].is_done:
            _, sent = self._open.popleft()
            if sent.failed():
                self.failure = self.failure or sent.exception

    def oldest_age_s(self) -> float:
        """Time since the oldest send without an outcome; 0 where all have one."""
        return time.monotonic() - self._open[0][0] if self._open else 0.0
