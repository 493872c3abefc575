"""Sends audit events from a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import httpx

from .clock import Clock, SystemClock
from .events import AuditEvent
from .outbox import EVENTS_PATH, NDJSON, Batch, Outbox
from .settings import SenderSettings, checked_url
from .tokens import SyncSource, Tokens, bearer


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
        token: SyncSource,
        settings: SenderSettings | None = None,
        *,
        http: httpx.Client | None = None,
        clock: Clock | None = None,
        insecure_http: bool = False,
    ) -> None:
        self._url = checked_url(url, insecure_http=insecure_http) + EVENTS_PATH
        clock = clock or SystemClock()
        self._settings = settings or SenderSettings()
        self._outbox = Outbox(self._settings, clock)
        self._own = http is None
        self._http = http or httpx.Client(trust_env=False)
        self._tokens = Tokens(token, clock, self._http)
        self._changed = threading.Condition()
        self._closing = False
        self._hurry = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trustwatch-events", daemon=True)
        self._thread.start()

    def send(self, event: AuditEvent) -> str:
        """Queue *event*; returns its id.

        Raises:
            ContentRefused, ValueError: the event is none, or holds what no event may hold.
        """
        name = self._outbox.put(event)
        with self._changed:
            self._changed.notify_all()
        return name

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until everything queued is done; whether that came to pass."""
        with self._changed:
            return self._changed.wait_for(self._outbox.idle, timeout_s)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Send what is left, for at most *timeout_s*; what remains then is counted as lost. Whether nothing did."""
        self._outbox.close()
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._hurry.set()
        self.flush(timeout_s)
        left = self._outbox.abandon()
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout_s)
        if self._own:
            self._http.close()
        return left == 0

    def counts(self) -> Mapping[str, int]:
        """How often each thing happened; docs/client.md lists them."""
        return self._outbox.counters.all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                self._changed.wait_for(lambda: not self._outbox.idle() or self._stop.is_set())
                self._changed.wait_for(lambda: self._outbox.full_batch() or self._closing, self._settings.linger_s)
            batch = self._outbox.take()
            if batch is not None:
                self._deliver(batch)
            with self._changed:
                self._changed.notify_all()

    def _deliver(self, batch: Batch) -> None:
        attempt = 0
        while not self._stop.is_set():
            attempt += 1
            wait = self._outbox.settle(batch, attempt, *self._post(batch.body))
            if wait is None:
                return
            if self._hurry.wait(wait):  # the end is near: there is no time to be patient
                self._stop.wait(min(wait, self._settings.backoff_s))

    def _post(self, body: bytes) -> tuple[int | None, Mapping[str, str], bytes]:
        """Status, headers and body of the reply; no status where there is none."""
        try:
            token = self._tokens.get()
            headers = NDJSON | bearer(token)
            reply = self._http.post(self._url, content=body, headers=headers, timeout=self._settings.request_timeout_s)
        except Exception:  # network, or a token callable of the user's; the thread must go on
            return None, {}, b""
        if reply.status_code == 401:
            self._tokens.drop(token)
        return reply.status_code, reply.headers, reply.content
