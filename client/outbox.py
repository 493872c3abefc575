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
NDJSON = {"content-type": "application/x-ndjson"}
LONGEST_WAIT_S = 60.0
COUNTED = ("queued", "accepted", "duplicate", "rejected", "dropped", "refused", "retries", "lost")
_GIVE_UP = (400, 413, 415, 422)


class Batch(NamedTuple):
    """Events of one request, in the order in which they were queued."""

    events: tuple[bytes, ...]

    @property
    def body(self) -> bytes:
        return b"\n".join(self.events)


class _Rejection(msgspec.Struct, frozen=True):
    path: str = ""
    reason: str = ""


class _Receipt(msgspec.Struct, frozen=True):
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    rejections: tuple[_Rejection, ...] = ()


class Outbox:
    """Events that wait to be sent.

    Args:
        settings: bounds.
        clock: both clocks.
    """

    def __init__(self, settings: SenderSettings, clock: Clock) -> None:
        self.settings = settings
        self.clock = clock
        self.counters = Counters(*COUNTED)
        self._waiting: deque[bytes] = deque()
        self._first: deque[Batch] = deque()
        self._lock = threading.Lock()
        self._on_its_way: Batch | None = None
        self._closed = False
        self._told: set[str] = set()

    def put(self, event: AuditEvent) -> str:
        """Queue *event*; returns its id. When the queue is full, the oldest event is dropped and counted.

        Raises:
            ContentRefused, ValueError: see `encode_event`.
        """
        try:
            name, raw = encode_event(event, self.settings.source)
        except ValueError:
            self.counters.add("refused")
            raise
        with self._lock:
            if self._closed:
                self.counters.add("lost")
                return name
            self._waiting.append(raw)
            over = len(self._waiting) > self.settings.queue_size
            if over:
                self._waiting.popleft()
        self.counters.add("queued")
        if over:
            self.counters.add("dropped")
            self._tell("full", "events wait longer than the queue is long; the oldest are dropped")
        return name

    def full_batch(self) -> bool:
        """Whether waiting for more is of no use."""
        return bool(self._first) or len(self._waiting) >= self.settings.batch_events

    def take(self) -> Batch | None:
        """The next batch; it stays on its way until `settle` is done with it. None when nothing waits."""
        with self._lock:
            if self._first:
                self._on_its_way = self._first.popleft()
                return self._on_its_way
            events: list[bytes] = []
            size = 0
            while self._waiting and len(events) < self.settings.batch_events:
                size += len(self._waiting[0]) + 1
                if events and size > self.settings.batch_bytes:
                    break
                events.append(self._waiting.popleft())
            self._on_its_way = Batch(tuple(events)) if events else None
            return self._on_its_way

    def settle(
        self, batch: Batch, attempt: int, status: int | None, headers: Mapping[str, str], body: bytes
    ) -> float | None:
        """What a reply means; *status* None = there was none.

        Args:
            attempt: attempts so far for this batch, from 1.

        Returns:
            Seconds to wait before the same batch is sent again; None: it is done.
        """
        if status in (200, 202, *_GIVE_UP):
            self._finish(batch, status or 0, body)
            return None
        self.counters.add("retries")
        self._tell(f"status {status}", "events are not taken; they are sent again")
        wait = backoff(attempt, self.settings.backoff_s, self.settings.backoff_most_s)
        if status in (429, 503):
            wait += min(retry_after(headers, self.clock.wall()) or 0.0, LONGEST_WAIT_S)
        return wait

    def idle(self) -> bool:
        """Whether everything that was queued is done."""
        with self._lock:
            return not self._waiting and not self._first and self._on_its_way is None

    def close(self) -> None:
        """Take no more events."""
        with self._lock:
            self._closed = True

    def abandon(self) -> int:
        """Give up what is left; returns how many events that were."""
        with self._lock:
            left = len(self._waiting) + sum(len(batch.events) for batch in self._first)
            left += len(self._on_its_way.events) if self._on_its_way else 0
            self._waiting.clear()
            self._first.clear()
            self._on_its_way = None
        if left:
            self.counters.add("lost", left)
            self._tell("lost", f"{left} events were not sent before the end")
        return left

    def _finish(self, batch: Batch, status: int, body: bytes) -> None:
        """Count what became of *batch*; too large a body becomes two."""
        halved = status == 413 and len(batch.events) > 1
        with self._lock:
            self._on_its_way = None
            if halved:
                middle = len(batch.events) // 2
                self._first.extendleft((Batch(batch.events[middle:]), Batch(batch.events[:middle])))
        if halved:
            return
        receipt = _receipt(body)
        if status in _GIVE_UP:
            self.counters.add("rejected", len(batch.events))
        else:
            self._told.clear()
            self.counters.add("accepted", receipt.accepted)
            self.counters.add("duplicate", receipt.duplicate)
            self.counters.add("rejected", receipt.rejected)
        for one in receipt.rejections[:1]:
            self._tell(f"rejected {one.path} {one.reason}", "the service rejects events")

    def _tell(self, what: str, text: str) -> None:
        """Log each kind once until things work again."""
        if what not in self._told and len(self._told) < 100:
            self._told.add(what)
            log.warning("%s (%s)", text, what)


def _receipt(body: bytes) -> _Receipt:
    try:
        return msgspec.json.decode(body, type=_Receipt)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Receipt()
