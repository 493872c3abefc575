"""A kafka-python producer that can be given up while records wait in it."""

from __future__ import annotations

from kafka import KafkaProducer


class ReplaceableProducer(KafkaProducer):
    """`close` of kafka-python flushes first, and raises where that takes too long: then thread and sockets stay."""

    _given_up = False

    def flush(self, timeout: float | None = None) -> None:
        """Wait for what was sent, unless this producer is given up."""
        if not self._given_up:
            super().flush(timeout)

    def give_up(self) -> None:
        """End thread and connections at once. Sends without an outcome fail; some may have been written."""
        self._given_up = True
        self.close(0)
