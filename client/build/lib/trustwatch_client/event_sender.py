"""Senders of audit events, for threads and for asyncio, over one bounded queue."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

import httpx2
import msgspec

from .access_tokens import AsyncTokenSource, TokenSource
from .counters import Counted, Counters
from .events import AuditEvent, encode_event
from .service_connection import (
    AsyncClosedOnExit,
    AsyncServiceConnection,
    ClosedOnExit,
    Requests,
    ServiceConnection,
    completed,
)
from .settings import SenderSettings, validate_url
from .timing import Clock, SystemClock, backoff, parse_retry_after

log = logging.getLogger("trustwatch_client")

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
    """Events that wait to be sent."""

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
        """True if the next batch is full, so that waiting for more events is of no use."""
        return bool(self._split_batches) or len(self._queued) >= self.settings.batch_events

    def take(self) -> EventBatch | None:
        """The next batch; it counts as in flight until `handle_reply` is done with it. None if none waits."""
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
        """Count the results in a reply, or plan another attempt; *status* None = there was no reply."""
        if status in (200, 202, *_PERMANENT_ERROR_STATUSES):
            self._count_results(batch, status or 0, body)
            return None
        self.counters.increment("retries")
        self._log_once(f"status {status}", "events are not taken; they are sent again")
        wait = backoff(attempt, self.settings.backoff_s, self.settings.backoff_most_s)
        if status in (429, 503):
            wait += min(parse_retry_after(headers.get("retry-after"), self.clock.wall()) or 0.0, MAX_RETRY_AFTER_S)
        return wait

    def is_idle(self) -> bool:
        """True if everything that was queued is done."""
        with self._lock:
            return not self._queued and not self._split_batches and self._in_flight is None

    def close(self) -> None:
        """Refuse further events."""
        with self._lock:
            self._closed = True

    def discard_remaining(self) -> int:
        """Drop all events that are left; returns their number."""
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
        """Count the results of *batch*; one whose body was too large is split into two."""
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
        for rejection in receipt.rejections[:1]:
            self._log_once(f"rejected {rejection.path} {rejection.reason}", "the service rejects events")

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


class _Sender(Counted):
    """What both senders share."""

    _url: str
    _settings: SenderSettings
    _requests: Requests

    async def _post(self, batch: EventBatch) -> tuple[int | None, Mapping[str, str], bytes]:
        """Status, headers and body of the reply; no status where there is none."""
        try:
            timeout_s = self._settings.request_timeout_s
            reply = await self._requests.send("POST", self._url, timeout_s, body=batch.body, headers=NDJSON_HEADERS)
        except Exception:  # network, or a token callable of the user's; the sender must go on
            return None, {}, b""
        return reply.status_code, reply.headers, reply.content


class EventSender(_Sender, ClosedOnExit):
    """Queues events and sends them in batches; `send` never waits for the network. Safe from any thread.

    An event's id is set when it is queued, so an attempt that is repeated makes duplicates, which the service drops.

    Args:
        url: of the service; https, or http to this machine.
        token: gives an access token with scope `trust.ingest`.
        settings: bounds.
        http, clock, insecure_http: as for `TrustClient`.

    Raises:
        ValueError: a setting or the URL is wrong.
    """

    def __init__(
        self,
        url: str,
        token: TokenSource,
        settings: SenderSettings | None = None,
        *,
        http: httpx2.Client | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._url = validate_url(url, insecure_http=insecure_http) + EVENTS_PATH
        clock = clock or SystemClock()
        self._settings = settings or SenderSettings()
        self._queue = EventQueue(self._settings, clock)
        self._counters = self._queue.counters
        self._connection = ServiceConnection(token, clock, http)
        self._requests = self._connection.requests
        self._changed = threading.Condition()
        self._closing = False
        self._closing_event = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trustwatch-events", daemon=True)
        self._thread.start()

    def send(self, event: AuditEvent) -> str:
        """Queue *event*; returns its id.

        Raises:
            ContentRefused, ValueError: the event is none, or holds what no event may hold.
        """
        name = self._queue.put(event)
        with self._changed:
            self._changed.notify_all()
        return name

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything queued is done; returns False if *timeout_s* ended first."""
        with self._changed:
            return self._changed.wait_for(self._queue.is_idle, timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Send what is left, for at most *timeout_s*; the rest is counted as lost. Returns True if nothing was."""
        self._queue.close()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._closing_event.set()
        self.flush(timeout_s)
        left = self._queue.discard_remaining()
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout_s)
        self._connection.close()
        return left == 0

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: not self._queue.is_idle() or self._stop.is_set())
                self._changed.wait_for(lambda: self._queue.has_full_batch() or self._closing, self._settings.linger_s)
            batch = self._queue.take()
            if batch is not None:
                self._send_batch(batch)
            with self._changed:
                self._changed.notify_all()

    def _send_batch(self, batch: EventBatch) -> None:
        attempt = 0
        while not self._stop.is_set():
            attempt += 1
            wait = self._queue.handle_reply(batch, attempt, *completed(self._post(batch)))
            if wait is None:
                return
            if self._closing_event.wait(wait):  # closing: only a short wait is left
                self._stop.wait(min(wait, self._settings.backoff_s))


class AsyncEventSender(_Sender, AsyncClosedOnExit):
    """`EventSender` for asyncio. The task starts with the first event; `send` is called in the loop and never waits.

    Args:
        url, settings, http, clock, insecure_http: as for `EventSender`.
        token: as there; the callable may be async.
    """

    def __init__(
        self,
        url: str,
        token: AsyncTokenSource,
        settings: SenderSettings | None = None,
        *,
        http: httpx2.AsyncClient | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._url = validate_url(url, insecure_http=insecure_http) + EVENTS_PATH
        clock = clock or SystemClock()
        self._settings = settings or SenderSettings()
        self._queue = EventQueue(self._settings, clock)
        self._counters = self._queue.counters
        self._connection = AsyncServiceConnection(token, clock, http)
        self._requests = self._connection.requests
        self._changed = asyncio.Event()
        self._done = asyncio.Event()
        self._closing_event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = self._ended = False

    def send(self, event: AuditEvent) -> str:
        """Queue *event*; returns its id.

        Raises:
            ContentRefused, ValueError: the event is none, or holds what no event may hold.
        """
        name = self._queue.put(event)
        if self._task is None and not self._closing:
            self._task = asyncio.create_task(self._run())
        self._changed.set()
        return name

    async def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything queued is done; returns False if *timeout_s* ended first."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self._queue.is_idle():
                    self._done.clear()
                    await self._done.wait()
        except TimeoutError:
            return False
        return True

    async def close(self, timeout_s: float = 5.0) -> bool:
        """Send what is left, for at most *timeout_s*; the rest is counted as lost. Returns True if nothing was."""
        self._queue.close()
        self._closing = True
        self._changed.set()
        self._closing_event.set()
        await self.flush(timeout_s)
        if self._task is not None:
            # Somebody below may swallow a cancellation (asyncio.wait_for of Python 3.11, a token callable): then the
            # task ends by itself behind the present attempt.
            self._ended = True
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        left = self._queue.discard_remaining()
        await self._connection.close()
        return left == 0

    async def _run(self) -> None:
        while not self._ended:
            if self._queue.is_idle():
                self._changed.clear()
                await self._changed.wait()
            await self._wait_for_full_batch()
            batch = self._queue.take()
            if batch is not None:
                await self._send_batch(batch)
            self._done.set()

    async def _wait_for_full_batch(self) -> None:
        """Wait for more events until a batch is full, `linger_s` is over or the sender closes."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + self._settings.linger_s
        while not self._queue.has_full_batch() and not self._closing and (left := ends - loop.time()) > 0:
            self._changed.clear()
            try:
                async with asyncio.timeout(left):
                    await self._changed.wait()
            except TimeoutError:
                return

    async def _send_batch(self, batch: EventBatch) -> None:
        attempt = 0
        while not self._ended:
            attempt += 1
            wait = self._queue.handle_reply(batch, attempt, *await self._post(batch))
            if wait is None:
                return
            await self._wait_before_retry(wait)

    async def _wait_before_retry(self, seconds: float) -> None:
        """Wait between two attempts; briefly once the sender closes."""
        try:
            async with asyncio.timeout(seconds):
                await self._closing_event.wait()
        except TimeoutError:
            return
        await asyncio.sleep(min(seconds, self._settings.backoff_s))
