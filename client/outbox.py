"""What both senders share: the bounded queue, and what a reply means for a batch. No I/O; safe from any thread."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from .clock import Clock
from .counters import Counters
from .events import AuditEvent, encode_event
from .retry import backoff, retry_after
from .settings import SenderSettings

log = logging.getLogger("trustwatch.client")

EVENTS_PATH = "/v1/events"
NDJSON_HEADERS = {"content-type": "application/x-ndjson"}
MAX_RETRY_AFTER_S = 60.0
SENDER_COUNTERS = ("queued", "accepted", "duplicate", "rejected", "dropped", "refused", "retries", "lost")
_PERMANENT_ERROR_STATUSES = (400, 413, 415, 422)


class EventBatch(NamedTuple):
    """Events of one request, in the order in which they were queued."""

    events: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"\n".join(self.events)


class _EventRejection(msgspec.Struct, frozen=True):
    path: str = ""
    reason: str = ""


class _IngestReceipt(msgspec.Struct, frozen=True):
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    rejections: tuple[_EventRejection, ...] = ()


class EventQueue:
    """Events that wait to be sent.

    Args:
        settings: bounds.
        clock: both clocks.
    """

    def __init__(self, settings: SenderSettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.counters = Counters(*SENDER_COUNTERS)
        self._queued: deque[bytes] = deque()
        self._split_batches: deque[EventBatch] = deque()
        self._lock = threading.Lock()
        self._in_flight: EventBatch | None = None
        self._closed = False
        self._logged: set[str] = set()

    def put(self, event: AuditEvent) -> str:
        """Queue *event*; returns its id. When the queue is full, the oldest event is dropped and counted.

        Raises:
            ContentRefused, ValueError: see `encode_event`.
        """
        try:
            name, raw = encode_event(event, self.settings.source)
        except ValueError:
            self.counters.increment("refused")
            raise
        with self._lock:
            if self._closed:
                self.counters.increment("lost")
                return name
            self._queued.append(raw)
            over = len(self._queued) > self.settings.queue_size
            if over:
                self._queued.popleft()
        self.counters.increment("queued")
        if over:
            self.counters.increment("dropped")
            self._log_once("full", "events wait longer than the queue is long; the oldest are dropped")
        return name

    def has_full_batch(self) -> bool:
        """Whether waiting for more is of no use."""
        return bool(self._split_batches) or len(self._queued) >= self.settings.batch_events

    def take(self) -> EventBatch | None:
        """The next batch; it stays on its way until `settle` is done with it. None when nothing waits."""
        with self._lock:
            if self._split_batches:
                self._in_flight = self._split_batches.popleft()
                return self._in_flight
            events: list[bytes] = []
            size = 0
            while self._queued and len(events) < self.settings.batch_events:
                size += len(self._queued[0]) + 1
                if events and size > self.settings.batch_bytes:
                    break
                events.append(self._queued.popleft())
            self._in_flight = EventBatch(tuple(events)) if events else None
            return self._in_flight

    def handle_reply(
        self, batch: EventBatch, attempt: int, status: int | None, headers: Mapping[str, str], body: bytes
    ) -> float | None:
        """What a reply means; *status* None = there was none.

        Args:
            attempt: attempts so far for this batch, from 1.

        Returns:
            Seconds to wait before the same batch is sent again; None: it is done.
        """
        if status in (200, 202, *_PERMANENT_ERROR_STATUSES):
            self._count_results(batch, status or 0, body)
            return None
        self.counters.increment("retries")
        self._log_once(f"status {status}", "events are not taken; they are sent again")
        wait = backoff(attempt, self.settings.backoff_s, self.settings.backoff_most_s)
        if status in (429, 503):
            wait += min(retry_after(headers, self.clock.wall()) or 0.0, MAX_RETRY_AFTER_S)
        return wait

    def is_idle(self) -> bool:
        """Whether everything that was queued is done."""
        with self._lock:
            return not self._queued and not self._split_batches and self._in_flight is None

    def close(self) -> None:
        """Take no more events."""
        with self._lock:
            self._closed = True

    def discard_remaining(self) -> int:
        """Give up what is left; returns how many events that were."""
        with self._lock:
            left = len(self._queued) + sum(len(batch.events) for batch in self._split_batches)
            left += len(self._in_flight.events) if self._in_flight else 0
            self._queued.clear()
            self._split_batches.clear()
            self._in_flight = None
        if left:
            self.counters.increment("lost", left)
            self._log_once("lost", f"{left} events were not sent before the end")
        return left

    def _count_results(self, batch: EventBatch, status: int, body: bytes) -> None:
        """Count what became of *batch*; too large a body becomes two."""
        halved = status == 413 and len(batch.events) > 1
        with self._lock:
            self._in_flight = None
            if halved:
                middle = len(batch.events) // 2
                self._split_batches.extendleft((EventBatch(batch.events[middle:]), EventBatch(batch.events[:middle])))
        if halved:
            return
        receipt = _read_receipt(body)
        if status in _PERMANENT_ERROR_STATUSES:
            self.counters.increment("rejected", len(batch.events))
        else:
            self._logged.clear()
            self.counters.increment("accepted", receipt.accepted)
            self.counters.increment("duplicate", receipt.duplicate)
            self.counters.increment("rejected", receipt.rejected)
        for one in receipt.rejections[:1]:
            self._log_once(f"rejected {one.path} {one.reason}", "the service rejects events")

    def _log_once(self, what: str, text: str) -> None:
        """Log each kind once until things work again."""
        if what not in self._logged and len(self._logged) < 100:
            self._logged.add(what)
            log.warning("%s (%s)", text, what)


def _read_receipt(body: bytes) -> _IngestReceipt:
    try:
        return msgspec.json.decode(body, type=_IngestReceipt)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _IngestReceipt()
