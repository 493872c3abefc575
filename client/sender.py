"""Sends audit events from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from .clock import Clock, SystemClock
from .events import AuditEvent
from .outbox import EVENTS_PATH, NDJSON_HEADERS, EventBatch, EventQueue
from .settings import SenderSettings, validate_url
from .tokens import AccessTokens, TokenSource, bearer_header


class EventSender:
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
        http: httpx.Client | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._url = validate_url(url, insecure_http=insecure_http) + EVENTS_PATH
        clock = clock or SystemClock()
        self._settings = settings or SenderSettings()
        self._queue = EventQueue(self._settings, clock)
        self._owns_http = http is None
        self._http = http or httpx.Client(trust_env=False)
        self._tokens = AccessTokens(token, clock, self._http)
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
        """Wait until everything queued is done; whether that came to pass."""
        with self._changed:
            return self._changed.wait_for(self._queue.is_idle, timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Send what is left, for at most *timeout_s*; what remains then is counted as lost. Whether nothing did."""
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
        if self._owns_http:
            self._http.close()
        return left == 0

    def counts(self) -> Mapping[str, int]:
        """How often each thing happened; docs/client.md lists them."""
        return self._queue.counters.as_dict()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
            wait = self._queue.handle_reply(batch, attempt, *self._post_batch(batch.body))
            if wait is None:
                return
            if self._closing_event.wait(wait):  # the end is near: there is no time to be patient
                self._stop.wait(min(wait, self._settings.backoff_s))

    def _post_batch(self, body: bytes) -> tuple[int | None, Mapping[str, str], bytes]:
        """Status, headers and body of the reply; no status where there is none."""
        try:
            token = self._tokens.get()
            headers = NDJSON_HEADERS | bearer_header(token)
            reply = self._http.post(self._url, content=body, headers=headers, timeout=self._settings.request_timeout_s)
        except Exception:  # network, or a token callable of the user's; the thread must go on
            return None, {}, b""
        if reply.status_code == 401:
            self._tokens.discard_token(token)
        return reply.status_code, reply.headers, reply.content
