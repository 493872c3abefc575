"""Senders of audit events, for threads and for asyncio, over one bounded queue."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Unpack

import msgspec

from .events import AuditEvent, encode_event
from .service_connection import (
    AsyncTokenSource,
    Counters,
    LoopClient,
    LoopOptions,
    Requests,
    ThreadClient,
    ThreadOptions,
    TokenSource,
    completed,
    require_positive,
)
from .timing import Clock, backoff, parse_retry_after

log = logging.getLogger("trustwatch_client")

EVENTS_PATH = "/v1/events"
NDJSON_HEADERS = {"content-type": "application/x-ndjson"}
MAX_RETRY_AFTER_S = 60.0
SENDER_COUNTERS = ("queued", "accepted", "duplicate", "rejected", "dropped", "refused", "retries", "lost")
_PERMANENT_ERROR_STATUSES = (400, 413, 415, 422)


class SenderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings of the event sender.

    Attributes:
        source: `source` of events that name none; with the id it identifies an event.
        queue_size: events that wait; if it is full, the oldest is dropped and counted.
        batch_events, batch_bytes: limits of one request.
        linger_s: s, for which a batch waits for more events.
        request_timeout_s: s.
        backoff_s, backoff_most_s: s, first and longest wait between attempts; each wait is random up to its bound.
    """

    source: str | None = None
    queue_size: int = 10_000
    batch_events: int = 500
    batch_bytes: int = 1 << 20
    linger_s: float = 0.2
    request_timeout_s: float = 10.0
    backoff_s: float = 0.2
    backoff_most_s: float = 30.0

    def __post_init__(self) -> None:
        require_positive(
            self, "queue_size", "batch_events", "batch_bytes", "request_timeout_s", "backoff_s", "backoff_most_s"
        )
        require_positive(self, "linger_s", or_zero=True)
        if self.batch_events > 10_000 or self.batch_bytes > 8 << 20:
            raise ValueError("batch_events is at most 10,000 and batch_bytes at most 8 MiB, as in the service")


EventBatch = tuple[bytes, ...]
"""Events of one request, in the order in which they were queued."""


class _EventRejection(msgspec.Struct, frozen=True):
    path: str = ""
    reason: str = ""


class _IngestReceipt(msgspec.Struct, frozen=True):
    accepted: int = 0
    duplicate: int = 0
    rejected: int = 0
    rejections: tuple[_EventRejection, ...] = ()


class _ThreadSignal:
    def __init__(self) -> None:
        self._changed = threading.Condition()

    async def wait_for(self, holds: Callable[[], bool], timeout_s: float | None = None) -> bool:
        with self._changed:
            return self._changed.wait_for(holds, timeout_s)

    def notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _LoopSignal:
    """`_ThreadSignal` for the tasks of one event loop."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()

    async def wait_for(self, holds: Callable[[], bool], timeout_s: float | None = None) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return holds()
        return True

    def notify(self) -> None:
        self._changed.set()


class _Sender:
    _url: str
    _clock: Clock
    _requests: Requests

    def _prepare(self, settings: SenderSettings | None, signal: _ThreadSignal | _LoopSignal) -> None:
        self._settings = settings or SenderSettings()
        self._signal = signal
        self._counters = Counters(*SENDER_COUNTERS)
        self._queued: deque[bytes] = deque()
        self._split_batches: deque[EventBatch] = deque()
        self._in_flight: EventBatch = ()
        self._lock = threading.Lock()
        self._closing = self._stopped = False
        self._logged: set[str] = set()

    def send(self, event: AuditEvent) -> str:
        """Queue *event* and return its ID without waiting. A full queue drops its oldest event and counts it.

        Raises:
            ContentRefused, ValueError: the event is invalid, or has content that no event may have.
        """
        try:
            name, raw = encode_event(event, self._settings.source)
        except ValueError:
            self._counters.increment("refused")
            raise
        with self._lock:
            if self._closing:
                self._counters.increment("lost")
                return name
            self._queued.append(raw)
            over = len(self._queued) > self._settings.queue_size
            if over:
                self._queued.popleft()
        self._counters.increment("queued")
        if over:
            self._counters.increment("dropped")
            self._log_once("full", "the queue is full; the oldest events are dropped")
        self._signal.notify()
        return name

    def _is_idle(self) -> bool:
        with self._lock:
            return not (self._queued or self._split_batches or self._in_flight)

    async def _flush(self, timeout_s: float) -> bool:
        return await self._signal.wait_for(self._is_idle, timeout_s)

    async def _send_remaining(self, timeout_s: float) -> None:
        with self._lock:
            self._closing = True
        self._signal.notify()
        await self._flush(timeout_s)
        self._stopped = True

    def _discard_remaining(self) -> int:
        with self._lock:
            left = len(self._queued) + sum(map(len, self._split_batches)) + len(self._in_flight)
            self._queued.clear()
            self._split_batches.clear()
            self._in_flight = ()
        if left:
            self._counters.increment("lost", left)
            self._log_once("lost", f"{left} events were not sent before the end")
        return left

    async def _run(self) -> None:
        def is_due() -> bool:
            return self._closing or bool(self._split_batches) or len(self._queued) >= self._settings.batch_events

        while not self._stopped:
            await self._signal.wait_for(lambda: self._stopped or not self._is_idle())
            await self._signal.wait_for(is_due, self._settings.linger_s)
            if batch := self._take_batch():
                await self._send_batch(batch)
            self._signal.notify()

    def _take_batch(self) -> EventBatch:
        with self._lock:
            if self._split_batches:
                self._in_flight = self._split_batches.popleft()
                return self._in_flight
            events: list[bytes] = []
            size = 0
            while self._queued and len(events) < self._settings.batch_events:
                size += len(self._queued[0]) + 1
                if events and size > self._settings.batch_bytes:
                    break
                events.append(self._queued.popleft())
            self._in_flight = tuple(events)
            return self._in_flight

    async def _send_batch(self, batch: EventBatch) -> None:
        """Send *batch* again and again, until the service accepts or rejects it, or the sender stops."""
        settings, url, body, attempt = self._settings, self._url + EVENTS_PATH, b"\n".join(batch), 0
        while not self._stopped:
            attempt += 1
            try:
                reply = await self._requests.send(
                    "POST", url, settings.request_timeout_s, content=body, headers=NDJSON_HEADERS
                )
            except Exception:  # of the network or of a token callable: the sender continues
                status, retry_after = None, None
            else:
                status, retry_after = reply.status_code, reply.headers.get("retry-after")
                if status in (200, 202, *_PERMANENT_ERROR_STATUSES):
                    self._count_results(batch, status, reply.content)
                    return
            self._counters.increment("retries")
            self._log_once(f"status {status}", "events are not accepted; they are sent again")
            wait = backoff(attempt, settings.backoff_s, settings.backoff_most_s)
            if status in (429, 503):
                wait += min(parse_retry_after(retry_after, self._clock.wall()) or 0.0, MAX_RETRY_AFTER_S)
            if await self._signal.wait_for(lambda: self._closing, wait):  # while it closes, waits are short
                await self._signal.wait_for(lambda: self._stopped, min(wait, settings.backoff_s))

    def _count_results(self, batch: EventBatch, status: int, body: bytes) -> None:
        """Count the results of *batch*. A batch whose body was too large is split in two."""
        middle = len(batch) // 2 if status == 413 else 0
        with self._lock:
            self._in_flight = ()
            if middle:
                self._split_batches.extendleft((batch[middle:], batch[:middle]))
                return
        try:
            receipt = msgspec.json.decode(body, type=_IngestReceipt)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            receipt = _IngestReceipt()
        if status in _PERMANENT_ERROR_STATUSES:
            self._counters.increment("rejected", len(batch))
        else:
            self._logged.clear()
            for name in ("accepted", "duplicate", "rejected"):
                self._counters.increment(name, getattr(receipt, name))
        for rejection in receipt.rejections[:1]:
            self._log_once(f"rejected {rejection.path} {rejection.reason}", "the service rejects events")

    def _log_once(self, what: str, text: str) -> None:
        if what not in self._logged and len(self._logged) < 100:
            self._logged.add(what)
            log.warning("%s (%s)", text, what)


class EventSender(_Sender, ThreadClient):
    """Queues events and sends them in batches. `send` never waits for the network. Thread-safe.

    An event gets its id when it is queued, so a repeated attempt makes duplicates, which the service drops.

    Args:
        url: of the service; https, or http to this machine.
        token: gives an access token with scope `trust.ingest`.
        settings: limits of queue, batches and waits.
        http, clock, insecure_http: as for `TrustClient`.

    Raises:
        ValueError: a setting or the URL is invalid.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        settings: SenderSettings | None = None,
        **options: Unpack[ThreadOptions],
    ) -> None:
        super().__init__(url, token, **options)
        self._prepare(settings, _ThreadSignal())
        self._thread = threading.Thread(target=lambda: completed(self._run()), name="trustwatch-events", daemon=True)
        self._thread.start()

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until all queued events are done. Return False if *timeout_s* ended first."""
        return completed(self._flush(timeout_s))

    def close(self, timeout_s: float = 5.0) -> bool:
        """Send remaining events for at most *timeout_s*, and count the rest as lost. Return whether none was lost."""
        completed(self._send_remaining(timeout_s))
        left = self._discard_remaining()
        self._signal.notify()
        self._thread.join(timeout_s)
        super().close()
        return left == 0


class AsyncEventSender(_Sender, LoopClient):
    """`EventSender` for asyncio. The task starts with the first event; call `send` in the event loop.

    Args:
        url, settings, http, clock, insecure_http: as for `EventSender`.
        token: as for `EventSender`; the callable may be async.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        settings: SenderSettings | None = None,
        **options: Unpack[LoopOptions],
    ) -> None:
        super().__init__(url, token, **options)
        self._prepare(settings, _LoopSignal())

    def send(self, event: AuditEvent) -> str:
        """Like `EventSender.send`. Raises ContentRefused, ValueError."""
        name = super().send(event)
        if not self._tasks and not self._closing:
            self._start(self._run())
        return name

    async def flush(self, timeout_s: float = 10.0) -> bool:
        """Like `EventSender.flush`."""
        return await self._flush(timeout_s)

    async def close(self, timeout_s: float = 5.0) -> bool:
        """Like `EventSender.close`."""
        await self._send_remaining(timeout_s)
        await super().close()
        return self._discard_remaining() == 0
